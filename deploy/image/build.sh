#!/usr/bin/env bash
# Builds the image of the unchanged Dockerfile where there is no Docker, starts it, examines it and stops it. It ends
# with an error if any of that fails.
#
# It runs as root and needs buildah, curl, pgrep and python3, but no daemon. Settings, by environment:
#   IMAGE      name of the image (hybridstitch:0.1.0)
#   PIP_CONF   a pip.conf for the build, which names the package index; it does not stay in the image (PyPI)
#   VOLUMES    folders that the build may read, such as one with wheels: "/wheels:/wheels:ro /other:/other:ro"
#   LOCAL_BASE 1: make the base image by base.sh instead of pulling it
#   PORT       first of the five ports of the started server, on this machine (8080)
#   KEEP       1: keep the container that was examined
set -euo pipefail
cd "$(dirname "$0")/../.."
image=${IMAGE:-hybridstitch:0.1.0}
port=${PORT:-8080}
base=$(sed -n 's/^FROM \([^ ]*:[^ ]*\).*/\1/p' Dockerfile | head -n 1)
work=$(mktemp -d)
container=''
server=''

# The command inside: chroot isolation leaves it among the processes of this machine.
stop() {
  local inside
  inside=$(pgrep --newest --full "hybridstitch serve .*--port $port\$" || true)
  [ -z "$inside" ] || kill -TERM "$inside"
  wait "$server" || true
  server=''
}

finish() {
  [ -z "$server" ] || stop
  [ -z "$container" ] || [ -n "${KEEP:-}" ] || buildah rm "$container" > /dev/null
  rm -rf "$work"
}
trap finish EXIT

step() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

# What the image itself runs: the words of a list in its configuration.
words() { buildah inspect --type image "$image" | python3 -c "
import json, shlex, sys
config = json.load(sys.stdin)['Docker']['config']
print(shlex.join($1))"; }

if [ -n "${LOCAL_BASE:-}" ] && ! buildah inspect --type image "$base" > /dev/null 2>&1; then
  step "makes the base image $base"
  bash deploy/image/base.sh "$base" > /dev/null
fi

step "builds $image"
options=(--isolation chroot --format docker --tag "$image")
[ -z "${LOCAL_BASE:-}" ] || options+=(--pull-never)
[ -z "${PIP_CONF:-}" ] || options+=(--secret "id=pip,src=$PIP_CONF")
for volume in ${VOLUMES:-}; do options+=(--volume "$volume"); done
buildah build "${options[@]}" . > "$work/build.log" 2>&1 || { tail -n 40 "$work/build.log"; exit 1; }
size=$(buildah images --format '{{.Size}}' "$image")
step "built: $size"

entrypoint=$(words "config['Entrypoint'] + config['Cmd']")
check=$(words "config['Healthcheck']['Test'][1:]" | sed "s/:8080/:$port/; s/:8081/:$((port + 1))/")
step "the image starts: $entrypoint"

container=$(buildah from --pull-never "$image")
run() { buildah run --isolation chroot "$container" -- "$@"; }
# shellcheck disable=SC2086
run $entrypoint --port "$port" > "$work/server.log" 2>&1 &
server=$!
for _ in $(seq 900); do
  grep -q '^ready:' "$work/server.log" && break
  kill -0 "$server" 2> /dev/null || { cat "$work/server.log"; exit 1; }
  sleep 1
done
user=$(run id -u)
step "ready: $(sed -n 's/^ready: //p' "$work/server.log" | head -n 1), as user $user"

step "the health check of the image: $check"
# shellcheck disable=SC2086
run $check

# Found by its command line, to see later that it has ended.
java=$(pgrep --newest --full "org.pytorch.serve.ModelServer.* -s /opt/hybridstitch/")
token=$(run python -c "import json; print(json.load(open('/run/hybridstitch/key_file.json'))['inference']['key'])")
curl --silent --show-error --fail --max-time 300 "http://127.0.0.1:$port/predictions/hybridstitch" \
  -H "Authorization: Bearer $token" -H 'Content-Type: application/json' \
  -d '{"prompt": "a red apple on blue", "seed": 0, "num_inference_steps": 4}' -o "$work/apple.png"
picture=$(python3 -c "
import struct, sys
data = open(sys.argv[1], 'rb').read()
assert data[:8] == b'\x89PNG\r\n\x1a\n' and b'trainedAlgorithmicMedia' in data
print('%d x %d pixels, %d bytes, marked as generated' % (*struct.unpack('>II', data[16:24]), len(data)))" "$work/apple.png")
step "a picture: $picture"

stop
if curl --silent --max-time 5 "http://127.0.0.1:$port/ping" > /dev/null || kill -0 "$java" 2> /dev/null; then
  echo "error: a process of the server is left"
  exit 1
fi
step "stopped, no process is left"
