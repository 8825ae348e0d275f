# Hanbit in a container, for NVIDIA GPUs and CPUs:   docker build -t hanbit .
# Smaller, for CPUs alone:                            docker build -t hanbit:cpu --build-arg TORCH_INDEX=URL .
#
# TORCH_INDEX is the address of another index to take PyTorch from, such as PyTorch's own index of CPU builds. The usual
# build brings its own CUDA libraries; the host needs only a driver and nvidia-container-toolkit.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=
ARG EXTRAS=serve,tensorboard
# g++: compiles the native kernels
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/hanbit
ENV PATH=/opt/hanbit/bin:$PATH
WORKDIR /source
COPY constraints.txt ./
# In a layer of its own: it is the largest part, and changes only with constraints.txt, which pins it
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml setup.py README.md LICENSE ./
COPY hanbit hanbit
RUN pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
# g++: torch.compile builds its kernels with it, on GPUs too
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 hanbit \
    && mkdir /hanbit && chown hanbit /hanbit
COPY --from=build /opt/hanbit /opt/hanbit
ENV PATH=/opt/hanbit/bin:$PATH \
    HANBIT_HOME=/hanbit/.cache/hanbit \
    HF_HOME=/hanbit/.cache/huggingface \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /hanbit
VOLUME /hanbit
EXPOSE 8000 8001 8002
# tini passes Ctrl-C and `docker stop` on: a run then writes its checkpoint and ends
ENTRYPOINT ["tini", "-g", "--", "hanbit"]
CMD ["doctor"]
