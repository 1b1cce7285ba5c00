# Builds oddswire and packs the one binary into a small image.
#
#   docker build --tag oddswire .
#   docker run --rm --read-only --publish 8000:8000 --stop-timeout 45 --env ODDSWIRE_PUBLISH_TOKEN=… oddswire
#
# Docker kills a container 10 s after it asks the container to stop, but a drain may take 30 s (`drain-timeout`). The
# longer stop timeout above (`stop_grace_period` in a compose file) leaves enough time for the drain.

# Both stages use the same Debian release, so the binary runs with the C library that it was linked against.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# Compile the dependencies with empty sources first. This layer depends only on the manifests, so a change of the code
# does not compile the dependencies again.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --profile dist --locked --bin oddswire

# Cargo rebuilds only files that are newer than its last build. But COPY keeps the dates of the checkout, which are
# older than the empty sources. Without the touch, Cargo would ship the program of the empty sources.
COPY src src
COPY docs/api docs/api
COPY console console
COPY clients/js/dist clients/js/dist
RUN touch src/lib.rs src/main.rs \
    && cargo build --profile dist --locked --bin oddswire

# Debian slim, not distroless: the binary needs only the C library, and this base has the same one that it was linked
# against. Scanners know its packages, and `docker exec` finds a shell for an investigation. Nothing is installed, so
# the image is the base and one file.
FROM debian:bookworm-slim

COPY --from=build /build/target/dist/oddswire /usr/local/bin/oddswire

# Inside a container, nothing outside could reach the default address, 127.0.0.1. The setting is an environment
# variable, not an argument, because the health check reads it, too.
ENV ODDSWIRE_LISTEN=0.0.0.0:8000
EXPOSE 8000

# The user is a number, not a name, so that an orchestrator can see without the image's /etc/passwd that it is not root.
# The binary belongs to root and the service writes no file, so a read-only root file system is enough. Only
# ODDSWIRE_ENGINE=journal writes, to ODDSWIRE_DATA_DIR: use a volume that this user owns.
USER 10001:10001

# The binary checks its own health, so the image needs no curl.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/oddswire", "health"]

# SIGTERM starts the drain: the server is not ready, tells clients to reconnect, and finishes publishes.
STOPSIGNAL SIGTERM

# The exec form makes oddswire process 1, so that no shell keeps the signal from it.
ENTRYPOINT ["/usr/local/bin/oddswire"]

# These arguments differ from build to build. At the end of the file, they leave every layer above in the cache.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oddswire" \
      org.opencontainers.image.description="Pushes live state to browsers over WebSocket and SSE, by topic" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
