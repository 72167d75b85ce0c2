# An image with the srrl command: evaluation, prediction, training and the app, on a CPU.
#   docker build -t srrl .
#   docker build -t srrl:cuda --build-arg TORCH_INDEX= .      PyPI's own torch, which has CUDA; or an index of PyTorch's own
# Another base (any with Python 3.11 or later and venv): --build-arg BASE_IMAGE=…
# A package index of your own: --secret id=pip_conf,src=/etc/pip.conf --secret id=ca_bundle,src=/etc/ssl/certs/ca-certificates.crt
ARG BASE_IMAGE=python:3.11-slim

# What does not change with the code: a change of it leaves this layer as it is.
FROM ${BASE_IMAGE} AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
SHELL ["/bin/sh", "-euc"]
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY pyproject.toml ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
o = p['optional-dependencies']; print(*p['dependencies'], *o['app'], *o['export'], *o['fast'], sep='\n')" > all.txt; \
    grep -E '^torch(vision)?[<>=!]' all.txt > torch.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" -r torch.txt; fi; \
    pip install -r all.txt

FROM packages AS code
COPY README.md LICENSE ./
COPY srrl srrl
COPY tasks tasks
COPY app app
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    pip install --no-deps --target /opt/srrl .

# The synthetic faces of the test and the head model: kept between builds, and made again only where the generator changed.
FROM code AS faces
RUN --mount=type=cache,target=/cache \
    faces=$(PYTHONPATH=/opt/srrl python3 -m srrl_tasks.faces.synthetic generate --split test --cache-dir /cache); \
    head=$(PYTHONPATH=/opt/srrl python3 -c "from srrl_tasks.faces.synthetic.assets import ASSET_VERSION as v; print(f'head-{v}')"); \
    mkdir /opt/cache; cp -r "$faces" "/cache/$head" /opt/cache; chmod -R a+rwX /opt/cache

FROM ${BASE_IMAGE}
# for any user; COPY would make the folder for root alone
RUN mkdir -m 1777 /runs /opt/cache
COPY --from=packages /opt/venv /opt/venv
COPY --from=faces /opt/cache /opt/cache
COPY --from=code /opt/srrl /opt/srrl
COPY configs /configs
# HOME and what lies in it are for this container alone; /tmp can be a tmpfs where the root is read-only
ENV PATH=/opt/venv/bin:/opt/srrl/bin:$PATH \
    PYTHONPATH=/opt/srrl \
    PYTHONUNBUFFERED=1 \
    SRRL_CACHE=/opt/cache \
    SRRL_HOST=0.0.0.0 \
    SRRL_FAULTS=/runs \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /
USER 10001:10001
EXPOSE 7860
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python3", "-m", "srrl_app.health"]
ENTRYPOINT ["srrl"]
CMD ["evaluate", "shipped:faces68"]
