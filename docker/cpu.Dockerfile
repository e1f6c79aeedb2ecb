# drpo where there is no GPU. From the checkout:
#
#   docker build -f docker/cpu.Dockerfile --build-arg TORCH_INDEX=<address> -t drpo:cpu .
#   docker run --rm -v "$PWD:/data" drpo:cpu train --logs ratings.csv --schema schema.json
#
# TORCH_INDEX is PyTorch's own index of CPU builds, as pytorch.org (Get Started, Pip, CPU) gives it.
# Without it torch comes from the public index, with several GB for GPUs that are not used.
FROM python:3.12-slim

ARG TORCH_INDEX=
WORKDIR /opt/torchrl-drpo
COPY constraints.txt .
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"; \
    fi
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[cli]" && rm -rf /opt/torchrl-drpo/*

# Nothing needs to be root; give -u "$(id -u)" where /data is to be written as yourself.
RUN useradd --create-home drpo && mkdir /data && chown drpo /data
USER drpo
WORKDIR /data
ENV MPLBACKEND=Agg MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
ENTRYPOINT ["drpo"]
CMD ["--help"]
