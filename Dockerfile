# Triton with elastriton's backends. The image is large (NVIDIA's Triton with every framework).
#
#   docker compose build                                                 (docker-compose.yml says how it is run)
#   docker build --build-arg TRITON=26.05 .                              another release; 26.04 is the oldest recommended:
#                                                                        from it on, Triton is not ready with a dead stub

ARG TRITON=26.04
FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3

# The extras of pyproject.toml that the image needs; none of them brings torch.
ARG EXTRAS=generator,runtime

WORKDIR /opt/elastriton
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY core/ core/
COPY runtime/ runtime/
COPY generator/ generator/
COPY client/ client/
COPY backends/ backends/

# Into the image's own Python, which Triton's stub was built for; its numpy stays as NVIDIA chose it.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN { python3 -m pip list --format=freeze | grep -i '^numpy==' || true; } > /tmp/constraints.txt \
    && python3 -m pip install --constraint /tmp/constraints.txt ".[${EXTRAS}]" \
    && rm /tmp/constraints.txt \
    && python3 -c "import elastriton.generator.serve, elastriton.core.errors"

# A Python-based backend is a folder beside Triton's python/.
COPY backends/ /opt/tritonserver/backends/

# The image's user triton-server. By number, so that Kubernetes can see that it is not root.
USER 1000:1000
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
# A neutral folder: a stub looks for model.py in the working directory first.
WORKDIR /tmp

EXPOSE 8000 8001 8002

# NVIDIA's entrypoint stays: it prepares the driver, then becomes this command, which drains when it gets SIGTERM.
CMD ["elastriton", "serve", "/models", "--address", "0.0.0.0", "--tritonserver", "/opt/tritonserver/bin/tritonserver"]
