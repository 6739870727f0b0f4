#!/bin/sh
# Fetches Grafana's published code into this directory and makes panels.mjs a program of one file.
# Of @grafana/prometheus one module is wanted, not the half gigabyte that the whole depends on.
set -eu
npm install --no-audit --no-fund --loglevel=error
npm pack --silent @grafana/prometheus@11.6.0 >/dev/null
mkdir -p prometheus
tar -xzf grafana-prometheus-11.6.0.tgz -C prometheus --strip-components 1
node_modules/.bin/esbuild panels.mjs --bundle --platform=node --format=esm --log-level=error \
    --outfile=bundle.mjs --alias:@grafana/runtime=./runtime.mjs \
    '--banner:js=import { createRequire } from "module"; const require = createRequire(import.meta.url);
globalThis.window ??= globalThis; globalThis.navigator ??= { language: "en", languages: ["en"] };'
