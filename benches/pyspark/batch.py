"""The batch worker's job on PySpark local[*], written and tuned as an experienced user would.

Raw JSON lines → clean rows → latest per key → Parquet → the eight answers → Parquet. Cleaning
follows docs/reference/data-contract.md and uses built-in functions only: no Python code runs per row. Each line
has the fields `_time`, `_partition` and `_offset`, as the S3 sink connector's InsertField adds.
"""

import argparse
import json
import time

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, LongType, StringType, StructField, StructType

ORDER = ["_time", "_partition", "_offset"]
# Unicode's White_Space.
SPACE = "".join(
    map(
        chr,
        [
            *range(0x09, 0x0E),
            *(0x20, 0x85, 0xA0, 0x1680),
            *range(0x2000, 0x200B),
            *(0x2028, 0x2029, 0x202F, 0x205F, 0x3000),
        ],
    )
)
RAW = {
    "pin": "index unique_id title description poster_name follower_count tag_list "
    "is_image_or_video image_src downloaded save_location category",
    "geo": "ind timestamp latitude longitude country",
    "user": "ind first_name last_name age date_joined",
}
KEY = {"pin": "unique_id", "geo": "ind", "user": "ind"}


def trimmed(name: str) -> Column:
    return F.btrim(F.translate(F.col(name), "\x00", ""), F.lit(SPACE))


def text(name: str, *missing: str) -> Column:
    value = trimmed(name)
    return F.when(~value.isin("", *missing), value)


def integer(name: str) -> Column:
    value = trimmed(name)
    whole = F.split_part(value, F.lit("."), F.lit(1))
    return F.when(value.rlike(r"^[+-]?\d+(\.0+)?$"), whole.try_cast("bigint"))


def bounded(name: str, low: int, high: int) -> Column:
    value = integer(name)
    return F.when(value.between(low, high), value)


def followers() -> Column:
    value = trimmed("follower_count")
    suffix = F.lower(F.right(value, F.lit(1)))
    factor = (
        F.when(suffix == "k", 1_000)
        .when(suffix == "m", 1_000_000)
        .when(suffix == "b", 1_000_000_000)
        .otherwise(1)
    )
    digits = F.translate(F.regexp_replace(value, "[kKmMbB]$", ""), ",", "")
    count = F.floor(digits.try_cast("decimal(28,9)") * factor)
    return F.when(
        value.rlike(r"^(\d+|\d{1,3}(,\d{3})+)(\.\d+)?[kKmMbB]?$"), count.try_cast("bigint")
    )


def timestamp(name: str) -> Column:
    value = trimmed(name)
    is_timestamp = value.rlike(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")
    return F.when(is_timestamp, value.try_cast("timestamp"))


def degrees(name: str, bound: int) -> Column:
    value = trimmed(name).try_cast("double")
    return F.when(F.abs(value) <= bound, value)


def clean(kind: str, raw: DataFrame) -> DataFrame:
    if kind == "pin":
        rows = raw.select(
            F.nullif(trimmed("unique_id"), F.lit("")).alias("unique_id"),
            integer("index").alias("index_id"),
            text("title", "No Title Data Available").alias("title"),
            text("category").alias("category"),
            text(
                "description",
                "No description available",
                "No description available Story format",
            ).alias("description"),
            text("poster_name", "User Info Error").alias("poster_name"),
            followers().alias("follower_count"),
            text("tag_list", "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e").alias("tag_list"),
            text("is_image_or_video").alias("is_image_or_video"),
            text("image_src", "Image src error.").alias("image_src"),
            F.when(trimmed("downloaded").isin("true", "1"), 1)
            .when(trimmed("downloaded").isin("false", "0"), 0)
            .alias("downloaded"),
            F.nullif(
                F.regexp_replace(text("save_location"), r"^Local save in\s*", ""), F.lit("")
            ).alias("save_location"),
            *ORDER,
        )
        return rows.where("unique_id IS NOT NULL AND index_id IS NOT NULL")
    if kind == "geo":
        latitude, longitude = degrees("latitude", 90), degrees("longitude", 180)
        has_both = latitude.isNotNull() & longitude.isNotNull()
        rows = raw.select(
            integer("ind").alias("ind"),
            text("country").alias("country"),
            F.when(has_both, F.array(latitude, longitude)).alias("coordinates"),
            timestamp("timestamp").alias("timestamp"),
            *ORDER,
        )
    else:
        rows = raw.select(
            integer("ind").alias("ind"),
            F.nullif(F.concat_ws(" ", text("first_name"), text("last_name")), F.lit("")).alias(
                "user_name"
            ),
            bounded("age", 0, 150).alias("age"),
            timestamp("date_joined").alias("date_joined"),
            *ORDER,
        )
    return rows.where("ind IS NOT NULL")


def latest(kind: str, rows: DataFrame) -> DataFrame:
    """The latest row of each key, with a single shuffle of the rows."""
    rows = rows.withColumn("_order", F.struct(*ORDER)).drop(*ORDER)
    names = [name for name in rows.columns if name != "_order"]
    best = rows.groupBy(KEY[kind]).agg(F.max_by(F.struct(*names), "_order").alias("row"))
    return best.select("row.*")


FACTS = """
WITH geos AS (SELECT ind, country, year(timestamp) AS post_year FROM geo),
users AS (
    SELECT ind, year(date_joined) AS join_year,
        CASE WHEN age BETWEEN 18 AND 24 THEN '18-24' WHEN age BETWEEN 25 AND 35 THEN '25-35'
             WHEN age BETWEEN 36 AND 50 THEN '36-50' WHEN age >= 51 THEN '50+' END AS age_group
    FROM user
)
"""


def popular(group: str, table: str, condition: str) -> str:
    return f"""{FACTS}, counts AS (
    SELECT {group}, category, count(*) AS category_count
    FROM pin JOIN {table} ON pin.index_id = {table}.ind
    WHERE {condition} AND category IS NOT NULL GROUP BY {group}, category
), ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY {group} ORDER BY category_count DESC, category
    ) AS ranking FROM counts
)
SELECT {group}, category, category_count FROM ranked WHERE ranking = 1 ORDER BY {group}"""


def median(groups: str, condition: str) -> str:
    return f"""{FACTS}
SELECT {groups}, median(CAST(follower_count AS DOUBLE)) AS median_follower_count
FROM pin JOIN users ON pin.index_id = users.ind
WHERE {condition} AND follower_count IS NOT NULL GROUP BY {groups} ORDER BY {groups}"""


JOINED = "join_year BETWEEN 2015 AND 2020"
QUESTIONS = {
    "popular_category_by_country": popular("country", "geos", "country IS NOT NULL"),
    "popular_category_by_year": popular("post_year", "geos", "post_year BETWEEN 2018 AND 2022"),
    "top_poster_by_country": f"""{FACTS}, ranked AS (
    SELECT country, poster_name, follower_count, row_number() OVER (
        PARTITION BY country ORDER BY follower_count DESC, poster_name
    ) AS ranking
    FROM pin JOIN geos ON pin.index_id = geos.ind
    WHERE country IS NOT NULL AND poster_name IS NOT NULL AND follower_count IS NOT NULL
) SELECT country, poster_name, follower_count FROM ranked WHERE ranking = 1 ORDER BY country""",
    "popular_category_by_age_group": popular("age_group", "users", "age_group IS NOT NULL"),
    "median_followers_by_age_group": median("age_group", "age_group IS NOT NULL"),
    "users_joined_by_year": f"""{FACTS}
SELECT join_year, count(*) AS number_users_joined
FROM users WHERE {JOINED} GROUP BY join_year ORDER BY join_year""",
    "median_followers_by_join_year": median("join_year", JOINED),
    "median_followers_by_join_year_and_age_group": median(
        "join_year, age_group", f"{JOINED} AND age_group IS NOT NULL"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--input", required=True, help="directory with pin/, geo/ and user/ of JSON lines"
    )
    parser.add_argument("--output", required=True, help="directory for clean/ and answers/")
    parser.add_argument("--memory", default="4g", help="size of the JVM heap")
    parser.add_argument("--scratch", required=True, help="directory for shuffle files")
    arguments = parser.parse_args()

    begun = time.monotonic()
    spark = (
        SparkSession.builder.master("local[*]")
        .appName("pinterest-batch")
        .config("spark.driver.memory", arguments.memory)
        .config("spark.local.dir", arguments.scratch)
        .config("spark.ui.enabled", False)
        .config("spark.ui.showConsoleProgress", False)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.adaptive.enabled", True)
        .config("spark.sql.shuffle.partitions", 8)
        .config("spark.serializer", "org.apache.spark.serializer.KryoSerializer")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    started = time.monotonic()

    counts = {}
    for kind, fields in RAW.items():
        order = [
            StructField("_time", LongType()),
            StructField("_partition", IntegerType()),
            StructField("_offset", LongType()),
        ]
        schema = StructType([StructField(name, StringType()) for name in fields.split()] + order)
        raw = spark.read.schema(schema).json(f"{arguments.input}/{kind}")
        folder = f"{arguments.output}/clean/{kind}"
        latest(kind, clean(kind, raw)).write.mode("overwrite").parquet(folder)
        spark.read.parquet(folder).createOrReplaceTempView(kind)
    loaded = time.monotonic()

    # Decode the columns that the questions need once for all eight.
    for kind, columns in {
        "pin": ["index_id", "category", "poster_name", "follower_count"],
        "geo": ["ind", "country", "timestamp"],
        "user": ["ind", "age", "date_joined"],
    }.items():
        table = spark.table(kind).select(*columns).persist(StorageLevel.MEMORY_AND_DISK)
        table.createOrReplaceTempView(kind)
        counts[kind] = table.count()
    answers = {}
    for name, sql in QUESTIONS.items():
        answer = spark.sql(sql).coalesce(1)
        folder = f"{arguments.output}/answers/{name}"
        answer.write.mode("overwrite").parquet(folder)
        answers[name] = [list(row) for row in spark.read.parquet(folder).collect()]
    ended = time.monotonic()
    spark.stop()
    print(
        json.dumps(
            {
                "keys": counts,
                "answers": answers,
                "seconds": {
                    "start": started - begun,
                    "clean and load": loaded - started,
                    "questions": ended - loaded,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
