#!/usr/bin/env bash
# Builds the OpenTelemetry Collector and Jaeger from the modules pinned in go.mod and go.sum,
# and prints the folder with both programs.
#
# They go into a folder outside the checkout, named by what they are built from, so that they
# are built once (about 8 minutes on two cores) and again only when a version changes.
# OTEL_CUDAGRAPH_BACKENDS names another folder.
set -euo pipefail
cd "$(dirname "$0")"

key=$(cat go.mod go.sum otelcol/main.go | sha256sum | cut -c1-16)
target=${OTEL_CUDAGRAPH_BACKENDS:-${XDG_CACHE_HOME:-$HOME/.cache}/otel-cudagraph/backends/$key}

if [ ! -x "$target/otelcol" ] || [ ! -x "$target/jaeger" ]; then
  command -v go >/dev/null || { echo "Go is not installed: the collector and Jaeger cannot be built" >&2; exit 1; }
  echo "Building the OpenTelemetry Collector and Jaeger into $target (once, some minutes)" >&2
  mkdir -p "$target"
  # go.sum is committed, so no checksum database is asked; several of these modules are not in it.
  CGO_ENABLED=0 GOFLAGS=-mod=readonly GOSUMDB=off \
    go build -trimpath -ldflags "-s -w" -o "$target/" ./otelcol github.com/jaegertracing/jaeger/cmd/jaeger
fi
echo "$target"
