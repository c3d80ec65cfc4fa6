"""A REST service in front of Kafka, as ingest replaces them, with the same promise: a request is
answered after all in-sync replicas have the record.

    BOOTSTRAP_SERVERS=… TOPICS=<prefix> TOKEN=… python3 -m uvicorn app:app --port …
"""

import json
import os
import secrets
from contextlib import asynccontextmanager
from enum import Enum
from typing import Annotated

from aiokafka import AIOKafkaProducer
from fastapi import Depends, FastAPI, Header, HTTPException

TOPICS = os.environ["TOPICS"]
AUTHORIZATION = "Bearer " + os.environ["TOKEN"]
KEYS = {"pin": "unique_id", "geo": "ind", "user": "ind"}


class Kind(str, Enum):
    pin = "pin"
    geo = "geo"
    user = "user"


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["BOOTSTRAP_SERVERS"],
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
    )
    await app.state.producer.start()
    yield
    await app.state.producer.stop()


async def authorized(authorization: Annotated[str, Header()] = ""):
    if not secrets.compare_digest(authorization.encode(), AUTHORIZATION.encode()):
        raise HTTPException(401)


app = FastAPI(lifespan=lifespan)


@app.post("/{kind}", status_code=202, dependencies=[Depends(authorized)])
async def post(kind: Kind, record: dict):
    key = str(record[KEYS[kind.value]])
    sent = await app.state.producer.send_and_wait(
        f"{TOPICS}.{kind.value}", json.dumps(record).encode(), key.encode()
    )
    return {"partition": sent.partition, "offset": sent.offset}
