# Hanbit in a container. On a CPU:  docker build -t hanbit .
# On NVIDIA GPUs:                   docker build -t hanbit:cuda --build-arg TORCH=cu130 .
#
# TORCH names the build of PyTorch as https://download.pytorch.org/whl has it: cpu, cu126, cu130, ... A CUDA build brings
# its own CUDA libraries; the host needs only a driver and nvidia-container-toolkit.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=cpu
ARG EXTRAS=serve,tensorboard
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/hanbit
ENV PATH=/opt/hanbit/bin:$PATH
WORKDIR /source
COPY constraints.txt ./
# In a layer of its own: it is the largest part, and changes only with constraints.txt
RUN pip install --index-url "https://download.pytorch.org/whl/${TORCH}" "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY hanbit hanbit
RUN pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
# g++: torch.compile builds its kernels with it, on GPUs too
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 hanbit \
    && mkdir /work && chown hanbit /work
COPY --from=build /opt/hanbit /opt/hanbit
ENV PATH=/opt/hanbit/bin:$PATH \
    HANBIT_HOME=/work/.cache/hanbit \
    HF_HOME=/work/.cache/huggingface \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
VOLUME /work
EXPOSE 8000 8001 8002
# tini passes Ctrl-C and `docker stop` on: a run then writes its checkpoint and ends
ENTRYPOINT ["tini", "-g", "--", "hanbit"]
CMD ["doctor"]
