# syntax=docker/dockerfile:1
# Tailrace with everything that production may want, and without the embedded Postgres:
#
#     docker build --tag tailrace:local .
#
# Agents come by an image of your own; docs/deployment.md has its three lines.  Nothing secret is in the image: URLs with
# passwords and the keys file are mounted.

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src ./src
# All wheels first, then an installation from these alone: what is installed is this tree, whatever an index offers.
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --constraint constraints.txt --wheel-dir /wheels \
        ".[archive,nats,otel,redis]" \
    && python -m venv /opt/tailrace \
    && /opt/tailrace/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-index \
        --find-links /wheels "tailrace[archive,nats,otel,redis]"

FROM python:3.13-slim-bookworm
# The user is named by its number, so that an orchestrator can see that it is not root.  Only /var/lib/tailrace is its own:
# a volume that is mounted there for the first time gets this owner.
RUN groupadd --gid 10001 tailrace \
    && useradd --uid 10001 --gid 10001 --no-log-init --home-dir /var/lib/tailrace --shell /usr/sbin/nologin tailrace \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/tailrace \
    && install --directory /srv/tailrace
COPY --from=build /opt/tailrace /opt/tailrace
ENV PATH=/opt/tailrace/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Agents lie here, and here Tailrace looks for `.env`.
WORKDIR /srv/tailrace
USER 10001:10001
EXPOSE 8400
STOPSIGNAL SIGTERM
# Whoever chooses another --port says so by PORT.  http.client, because urllib would ask a proxy of the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "import http.client, os, sys; probe = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT', '8400')), timeout=4); probe.request('GET', '/healthz'); sys.exit(probe.getresponse().status != 200)"]
ENTRYPOINT ["tailrace"]
# Without TAILRACE_API_KEYS_FILE this ends at once and says why: nothing is published by mistake.
CMD ["serve", "--host", "0.0.0.0", "--port", "8400"]
