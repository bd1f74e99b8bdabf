# Tessera's images.
#
#     docker build -t tessera .                          CPU; the default
#     docker build -t tessera:cuda --target cuda .       NVIDIA GPUs (CUDA 13, driver 580 or newer)
#     docker build -t tessera --target cpu-prebuilt .    CPU, with the binary of `make build`
#
# Serves on 8080 as user 65532, on a read-only root file system if asked to. What a user brings:
#     -v $PWD/models:/opt/tessera/models:ro              other models
#     -v $PWD/config.toml:/opt/tessera/config.toml:ro    settings; or TESSERA__SECTION__KEY, or AIP_* on Vertex AI

# Where the compiler comes from: anything with cargo and apt-get serves, if its glibc is no newer than BASE's.
ARG BUILDER_BASE=docker.io/library/rust:1.95-slim-bookworm
# Where the system libraries come from.
ARG BASE=docker.io/library/debian:bookworm-slim


# The system libraries' stage: what the C++ library and HTTPS clients need.
FROM ${BASE} AS system
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
 && rm -rf /var/lib/apt/lists/*


# The binary that `make build` left in the build context, and its library.
FROM system AS prebuilt
COPY target/release/tessera /opt/tessera/bin/tessera
COPY .onnxruntime/lib/libonnxruntime.so /opt/tessera/lib/libonnxruntime.so
COPY .onnxruntime/LICENSE .onnxruntime/ThirdPartyNotices.txt /opt/tessera/share/onnxruntime/
COPY LICENSE /opt/tessera/share/LICENSE
COPY models /opt/tessera/models
COPY scripts/minimal_root.sh /
RUN /minimal_root.sh /root-filesystem

FROM scratch AS cpu-prebuilt
COPY --from=prebuilt /root-filesystem /
ENV ORT_DISABLE_TELEMETRY=1 \
    TESSERA__REPOSITORY__DIRECTORY=/opt/tessera/models
WORKDIR /opt/tessera
USER 65532:65532
EXPOSE 8080 8500
ENTRYPOINT ["/opt/tessera/bin/tessera"]
CMD ["serve"]


# The compiler's stage.
FROM ${BUILDER_BASE} AS builder
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev nasm python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY scripts/fetch_onnxruntime.py scripts/
RUN python3 scripts/fetch_onnxruntime.py
COPY . .
# The mounts keep what cargo downloads and compiles from one build to the next; they are in no layer.
RUN --mount=type=cache,target=/source/target --mount=type=cache,target=/var/cache/cargo \
    CARGO_HOME=/var/cache/cargo cargo build --release --locked \
 && install -D target/release/tessera /opt/tessera/bin/tessera

FROM system AS compiled
COPY --from=builder /opt/tessera/bin/tessera /opt/tessera/bin/tessera
COPY --from=builder /source/.onnxruntime/lib/libonnxruntime.so /opt/tessera/lib/libonnxruntime.so
COPY --from=builder /source/.onnxruntime/LICENSE /source/.onnxruntime/ThirdPartyNotices.txt /opt/tessera/share/onnxruntime/
COPY LICENSE /opt/tessera/share/LICENSE
COPY models /opt/tessera/models
COPY scripts/minimal_root.sh /
RUN /minimal_root.sh /root-filesystem


# NVIDIA GPUs: ONNX Runtime's CUDA build and NVIDIA's libraries, from their wheels. The driver's own libcuda is
# put into the container by NVIDIA's container toolkit (`docker run --gpus all`).
FROM system AS cuda-libraries
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/cuda/requirements.txt /requirements.txt
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes --target /wheels -r /requirements.txt \
 && mkdir -p /opt/tessera/lib /opt/tessera/cuda /opt/tessera/share/onnxruntime \
 && mv /wheels/onnxruntime/capi/libonnxruntime.so.* /opt/tessera/lib/libonnxruntime.so \
 && mv /wheels/onnxruntime/capi/libonnxruntime_providers_shared.so \
       /wheels/onnxruntime/capi/libonnxruntime_providers_cuda.so /opt/tessera/lib/ \
 && mv /wheels/onnxruntime/LICENSE /wheels/onnxruntime/ThirdPartyNotices.txt /opt/tessera/share/onnxruntime/ \
 && find /wheels/nvidia -name '*.so*' -exec mv -t /opt/tessera/cuda {} + \
 && rm -rf /wheels

FROM system AS cuda
COPY --from=cuda-libraries /opt/tessera /opt/tessera
COPY --from=compiled /opt/tessera/bin /opt/tessera/bin
COPY --from=compiled /opt/tessera/models /opt/tessera/models
COPY LICENSE /opt/tessera/share/LICENSE
ENV ORT_DISABLE_TELEMETRY=1 \
    TESSERA__REPOSITORY__DIRECTORY=/opt/tessera/models \
    TESSERA__ENGINE__PROVIDER=cuda \
    LD_LIBRARY_PATH=/opt/tessera/cuda \
    CUDA_MODULE_LOADING=LAZY \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/tessera
USER 65532:65532
EXPOSE 8080 8500
ENTRYPOINT ["/opt/tessera/bin/tessera"]
CMD ["serve"]


# The default: last, so that a plain `docker build .` ends here.
FROM scratch AS cpu
COPY --from=compiled /root-filesystem /
ENV ORT_DISABLE_TELEMETRY=1 \
    TESSERA__REPOSITORY__DIRECTORY=/opt/tessera/models
WORKDIR /opt/tessera
USER 65532:65532
EXPOSE 8080 8500
ENTRYPOINT ["/opt/tessera/bin/tessera"]
CMD ["serve"]
