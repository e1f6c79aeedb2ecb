# drpo on NVIDIA GPUs. From the checkout, with the NVIDIA container toolkit on the host:
#
#   docker build -f docker/cuda.Dockerfile -t drpo:cuda .
#   docker run --rm --gpus all -v "$PWD:/data" drpo:cuda doctor
#   docker run --rm --gpus all -v "$PWD:/data" drpo:cuda train --device cuda --logs log.parquet ...
#
# For several GPUs: --ipc host --entrypoint torchrun, then -m -- torchrl_drpo.cli train ... (docs,
# many processes). torch comes from the public index, with the CUDA libraries and the Triton that
# it was built for; the host needs the driver alone.
FROM python:3.12-slim

# Triton compiles its launchers with a C compiler when a kernel is first used.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/torchrl-drpo
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[cli]" && rm -rf /opt/torchrl-drpo/*

# Nothing needs to be root; give -u "$(id -u)" where /data is to be written as yourself.
RUN useradd --create-home drpo && mkdir /data && chown drpo /data
USER drpo
WORKDIR /data
ENV MPLBACKEND=Agg MPLCONFIGDIR=/tmp/matplotlib \
    TRITON_CACHE_DIR=/tmp/triton TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
ENTRYPOINT ["drpo"]
CMD ["--help"]
