# For processors:   docker build -t kmod .
# For NVIDIA GPUs:  docker build -t kmod --build-arg TENSORFLOW='tensorflow[and-cuda]' .
# Run:              docker run --rm -v "$PWD:/work" kmod inspect model.keras
FROM python:3.11-slim

ARG TENSORFLOW=tensorflow
ARG EXTRAS=viz,onnx,litert

COPY setup.cfg pyproject.toml README.md LICENSE /src/
COPY kmod /src/kmod
RUN pip install --no-cache-dir "$TENSORFLOW" "/src[$EXTRAS]" && rm -r /src

RUN useradd --create-home kmod
USER kmod
WORKDIR /work
ENTRYPOINT ["kmod"]
CMD ["doctor"]
