"""The tables of the label store, alike in SQLite and PostgreSQL. A ``number`` counts rows as they came.

What people said and what was asked is only ever added. What moves is a request's state, its leases, and
the signs of life of the workers.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

#: Version of this layout, kept in the table of the same name.
LAYOUT = 1

layout = Table("layout", metadata, Column("version", Integer, primary_key=True))

annotator = Table(
    "annotator",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("created_s", Float, nullable=False),
)

#: Tokens are kept as their SHA-256: whoever reads the database cannot answer in another's name.
token = Table(
    "token",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("annotator_id", ForeignKey("annotator.id"), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("revoked_s", Float),
)

label_schema = Table(
    "label_schema",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)

sample = Table(
    "sample",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("session", String(200), nullable=False, index=True),
    Column("field", String(200), nullable=False),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)

#: Locked: whether a field of a session is learned from, or judged by.
split = Table(
    "split",
    metadata,
    Column("session", String(200), primary_key=True),
    Column("field", String(200), primary_key=True),
    Column("split", String(20), nullable=False),
    Column("created_s", Float, nullable=False),
)

request = Table(
    "request",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("key", String(200), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("arm", String(20), nullable=False),
    Column("is_live", Boolean, nullable=False),
    Column("priority", Float, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)

#: One for each person who is to answer a request. Its lease is whose turn it is, until when.
assignment = Table(
    "assignment",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("request_id", ForeignKey("request.id"), nullable=False, index=True),
    Column("slot", Integer, nullable=False),
    Column("is_answered", Boolean, nullable=False),
    Column("annotator_id", ForeignKey("annotator.id")),
    Column("lease_id", String(36), unique=True),
    Column("lease_until_s", Float),
    UniqueConstraint("request_id", "slot"),
    UniqueConstraint("request_id", "annotator_id"),  # nobody has two of them
)

#: Somebody who would rather not answer a request is not asked it again.
declined = Table(
    "declined",
    metadata,
    Column("request_id", ForeignKey("request.id"), primary_key=True),
    Column("annotator_id", ForeignKey("annotator.id"), primary_key=True),
    Column("created_s", Float, nullable=False),
)

answer = Table(
    "answer",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # 1, 2, … in the order of arrival
    Column("id", String(36), nullable=False, unique=True),
    Column("key", String(200), nullable=False),
    Column("assignment_id", ForeignKey("assignment.id")),
    Column("revision", Integer),  # 0, 1, …: the answer and what replaced it; NULL: it came second
    Column("annotator_id", ForeignKey("annotator.id"), nullable=False),
    Column("told", Text, nullable=False),  # the classes that it says are there, to be counted
    Column("elapsed_s", Float, nullable=False),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
    UniqueConstraint("annotator_id", "key"),
    UniqueConstraint("assignment_id", "revision"),
)

answer_sample = Table(
    "answer_sample",
    metadata,
    Column("answer_id", ForeignKey("answer.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sample_id", ForeignKey("sample.id"), nullable=False, index=True),
)

consensus = Table(
    "consensus",
    metadata,
    Column("sample_id", ForeignKey("sample.id"), primary_key=True),
    Column("method", String(200), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)

model = Table(
    "model",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("role", String(20), nullable=False),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)

worker = Table(
    "worker",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("content", Text, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("what", String(200), nullable=False),
    Column("content", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)

#: Rows of these are never changed nor taken away; the database itself refuses it. Of a request only the
#: state changes.
APPEND_ONLY = (label_schema, sample, split, answer, answer_sample, consensus, snapshot, model, event)

Index("next_request", request.c.state, request.c.is_live, request.c.priority, request.c.number)
