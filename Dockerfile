# Builds oddswire and packs the one binary into a small image.
#
#   docker build --tag oddswire .
#   docker run --rm --read-only --publish 8000:8000 --stop-timeout 35 --env ODDSWIRE_PUBLISH_TOKEN=… oddswire
#
# Docker kills a container 10 s after asking it to stop, while draining may take 30 s (`drain-timeout`). The stop
# timeout above (`stop_grace_period` in a compose file) leaves room for the drain.

# Both stages are of the same Debian release, so the binary runs on the C library that it was linked against.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies are compiled against empty sources first. This layer depends on the manifests alone, so a change of
# the code does not compile the dependencies again.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --profile dist --locked --bin oddswire

# Cargo rebuilds what is newer than its last build, but COPY keeps the dates of the checkout, which are older than the
# stubs. Without the touch the stubs would be shipped.
COPY src src
COPY docs/api docs/api
COPY console console
COPY clients/js/dist clients/js/dist
RUN touch src/lib.rs src/main.rs \
    && cargo build --profile dist --locked --bin oddswire

# Debian slim rather than distroless: the binary needs nothing but the C library, this base has the very one it was
# linked against, scanners know its packages, and `docker exec` finds a shell when something has to be looked into.
# Nothing is installed into it, so the image is the base and one file.
FROM debian:bookworm-slim

COPY --from=build /build/target/dist/oddswire /usr/local/bin/oddswire

# Inside a container the default, 127.0.0.1, would be out of reach for everybody else. The setting is an environment
# variable rather than an argument because the health check reads it too.
ENV ODDSWIRE_LISTEN=0.0.0.0:8000
EXPOSE 8000

# A number and not a name, so that an orchestrator can tell without the image's /etc/passwd that it is not root.
# The binary belongs to root and the service writes no file, so a read-only root file system is enough for it. Only
# ODDSWIRE_ENGINE=journal writes, to ODDSWIRE_DATA_DIR: a volume that this user owns.
USER 10001:10001

# The binary asks itself, so the image needs no curl.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/oddswire", "health"]

# SIGTERM starts the drain: not ready, connections told to reconnect, publishes finished.
STOPSIGNAL SIGTERM

# The exec form makes oddswire process 1, so the signal reaches it and no shell in between.
ENTRYPOINT ["/usr/local/bin/oddswire"]

# The arguments differ from build to build; down here they leave every layer above in the cache.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oddswire" \
      org.opencontainers.image.description="Pushes scrape progress and odds changes to browsers over WebSocket and SSE, by topic" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
