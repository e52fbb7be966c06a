"""Make the bucket, once the S3 server answers, unless it is there."""

import os

import boto3
from botocore.config import Config

client = boto3.client(
    "s3",
    endpoint_url=os.environ["ENDPOINT_URL"],
    region_name="us-east-1",
    # The server may just be starting, and refuses objects until it has made room for them.
    config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 12}),
)
if "logship" not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
    client.create_bucket(Bucket="logship")
client.put_object(Bucket="logship", Key="is-ready", Body=b"")
client.delete_object(Bucket="logship", Key="is-ready")
