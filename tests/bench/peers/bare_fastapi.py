"""The floor for a function with a database: FastAPI and SQLAlchemy on uvicorn, with one route and one table.

It answers a list of that table's rows from SQLite, checks its one parameter and writes its answer by a model, as anybody's
first FastAPI program does. Started as our boot starts a function. The same file is the process that is started.
"""

import sys
from typing import Annotated


def serve(port: int) -> None:
    import uvicorn  # only in the process that serves: the harness imports this module for its path
    from fastapi import FastAPI, Query
    from pydantic import BaseModel
    from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, select
    from sqlalchemy.pool import StaticPool

    class Thing(BaseModel):
        id: int
        title: str

    things = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("title", String(64)))
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    things.metadata.create_all(engine)
    app = FastAPI()

    @app.get("/things")
    def listed(limit: Annotated[int, Query(ge=1)] = 20) -> list[Thing]:
        with engine.connect() as connection:
            rows = connection.execute(select(things).order_by(things.c.id).limit(limit))
            return [Thing(id=row.id, title=row.title) for row in rows]

    settings = uvicorn.Config(
        app, port=port, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error"
    )
    uvicorn.Server(settings).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
