"""A user's own application: it mounts Tailrace and serves a page of the same origin. ``host.py PORT``."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

import tailrace

app = tailrace.App()
host = FastAPI(lifespan=lambda _: app.running(["api"]))
host.mount("/tailrace", app.asgi())


@host.get("/page", response_class=HTMLResponse)
async def page() -> str:
    return "<!doctype html><title>A page</title>"


@host.get("/readyz")
async def readyz() -> str:
    return "ready"


if __name__ == "__main__":
    uvicorn.run(host, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", timeout_graceful_shutdown=5)
