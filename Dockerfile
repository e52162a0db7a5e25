# Runs the demo:
#   docker build -t clip-wsss . && docker run --rm -v "$PWD/out:/out" clip-wsss
# TORCH=cpu leaves out CUDA's libraries: docker build --build-arg TORCH=cpu ...
FROM python:3.11-slim-bookworm

ARG TORCH=pypi
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /clip-wsss
COPY . .
RUN make .venv/.ready TORCH=${TORCH}
ENV PATH=/clip-wsss/.venv/bin:$PATH

WORKDIR /out
CMD ["clip-wsss", "run", "--cores", "all"]
