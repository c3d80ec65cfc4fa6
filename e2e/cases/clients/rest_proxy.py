"""Sends records to topics of a Kafka REST proxy. INVOKE_URL is its base URL, PREFIX begins the
names of the topics."""

import datetime
import json
import os

import requests

base, prefix = os.environ["INVOKE_URL"], os.environ["PREFIX"]

rows = {
    "pin": [{"index": number, "unique_id": f"proxy-{number}"} for number in range(3)],
    "geo": [
        {"ind": number, "timestamp": datetime.datetime(2020, 8, 28, 3, 52, number)}
        for number in range(3)
    ],
}
headers = {"Content-Type": "application/vnd.kafka.json.v2+json"}
for topic, records in rows.items():
    invoke_url = f"{base}/topics/{prefix}.{topic}"
    for record in records:
        payload = json.dumps({"records": [{"value": record}]}, default=str)
        response = requests.request("POST", invoke_url, headers=headers, data=payload)
        print(topic, response.status_code, response.text)
        assert response.status_code == 200
        assert response.json()["offsets"][0]["error_code"] is None
