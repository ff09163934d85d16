"""LangGraph with its Postgres checkpointer: a graph of five nodes that do nothing."""

from __future__ import annotations

import itertools
import secrets
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from bench.peer import answer, needs, plan_on_stdin, say
from tailrace.bench.place import Place, Scale
from tailrace.bench.row import Figures, Reference
from tailrace.bench.runs import LANGGRAPH, at_once

missing = needs("langgraph", "langgraph.checkpoint.postgres", "psycopg_pool")
CONNECTIONS = 20


async def whole_runs(place: Place, *, durability: str) -> Figures:
    """Run the graph."""
    return await answer(place, "langgraph_peer", durability=durability, url=place.url, seconds=place.scale.seconds)


class State(TypedDict):
    done: int


async def _work(durability: Any, url: str, seconds: float) -> dict[str, float]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from langgraph.graph import END, START, StateGraph
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    async def node(state: State) -> State:
        return {"done": state["done"] + 1}

    graph: Any = StateGraph(State)
    names = [f"node{number}" for number in range(5)]
    for name in names:
        graph.add_node(name, node)
    for before, after in itertools.pairwise([START, *names, END]):
        graph.add_edge(before, after)
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool: Any = AsyncConnectionPool(url, min_size=1, max_size=CONNECTIONS, kwargs=options, open=False)
    async with pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        compiled = graph.compile(checkpointer=saver)
        threads, turn = itertools.count(), secrets.token_hex(4)

        async def whole_run() -> None:
            config = {"configurable": {"thread_id": f"{turn}-{next(threads)}"}}
            result = await compiled.ainvoke({"done": 0}, config, durability=durability)
            assert result["done"] == 5

        return await at_once(whole_run, Place(url, Path(), Scale(seconds=seconds)))


AT_EXIT = Reference(LANGGRAPH, partial(whole_runs, durability="exit"), missing)
EACH_STEP = Reference("LangGraph + Postgres, saved at each step", partial(whole_runs, durability="sync"), missing)

if __name__ == "__main__":
    import uvloop

    say(uvloop.run(_work(**plan_on_stdin())))
