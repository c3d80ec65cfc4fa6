"""Posts records of all kinds to ingest. INVOKE_URL is its base URL."""

import datetime
import json
import os

import requests

invoke_url = os.environ["INVOKE_URL"]

pin = {"index": 7528, "unique_id": "fbe53c66-3442-4773-b19e-d3ec6f54dddf", "title": "Café"}
geo = {
    "ind": 7528,
    "timestamp": datetime.datetime(2020, 8, 28, 3, 52, 47),
    "latitude": -89.9787,
    "longitude": -173.293,
    "country": "Albania",
}
user = {"ind": 7528, "first_name": "Abigail", "last_name": "Ali", "age": 20}

for kind, record in [("pin", pin), ("geo", geo), ("user", user)]:
    response = requests.post(f"{invoke_url}/{kind}/", data=json.dumps(record, default=str))
    print(kind, response.status_code, response.text)
    response.raise_for_status()

response = requests.post(f"{invoke_url}/pin/", json=pin)
response.raise_for_status()
