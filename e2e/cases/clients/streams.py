"""Puts records into Kinesis streams behind an API gateway. INVOKE_URL is its base URL."""

import datetime
import json
import os

import requests

base = os.environ["INVOKE_URL"]

rows = {
    "pin": {"index": 1, "unique_id": "stream-1"},
    "geo": {"ind": 1, "timestamp": datetime.datetime(2020, 8, 28, 3, 52, 47)},
    "user": {"ind": 1, "date_joined": datetime.datetime(2015, 10, 24, 11, 23, 51)},
}
headers = {"Content-Type": "application/json"}
for kind, record in rows.items():
    stream = f"streaming-0a1b-{kind}"
    payload = json.dumps(
        {"StreamName": stream, "Data": record, "PartitionKey": "partition-1"}, default=str
    )
    response = requests.request(
        "PUT", f"{base}/streams/{stream}/record", headers=headers, data=payload
    )
    print(kind, response.status_code, response.text)
    assert response.status_code == 200
    assert response.json()["ShardId"].startswith("shardId-")
