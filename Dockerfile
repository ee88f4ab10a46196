# The studio in a container:
#   docker build -t chrysalis .
#   docker run -p 7860:7860 -v networks:/networks chrysalis                 on a CPU
#   docker run --gpus all -p 7860:7860 -v networks:/networks chrysalis      on a GPU of the host's, with its driver
FROM python:3.12-slim-bookworm

# No Debian package is needed: opencv-python-headless (controlnet-aux asks for it) and av bring their own libraries.
# uid 1000 is who Hugging Face's Docker Spaces run an image as.
RUN useradd --create-home --uid 1000 artist && install -d -o artist -g artist /networks /home/artist/chrysalis
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv

# cuda: PyPI's torch with NVIDIA's libraries, some 6 GB; it runs on a CPU too, so one image serves both.
# cpu: PyTorch's own index first, a far smaller image. Nobody has run this one yet: the index was out of reach.
ARG TORCH=cuda
COPY requirements.txt /opt/
RUN case "$TORCH" in \
      cuda) ;; \
      cpu) pip install --index-url https://download.pytorch.org/whl/cpu torch torchvision ;; \
      *) echo "TORCH must be cuda or cpu, got $TORCH" >&2; exit 1 ;; \
    esac && pip install -r /opt/requirements.txt

USER artist
WORKDIR /home/artist/chrysalis
COPY --chown=artist:artist . .

# What the hub sends and what was learnt of pictures outlive the container. A folder of the host's must be uid 1000's.
ENV HF_HOME=/networks CHRYSALIS_CACHE=/networks/chrysalis HOST=0.0.0.0 PORT=7860 PYTHONUNBUFFERED=1
VOLUME /networks
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
  CMD python -c "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=9)"
# The first process of a container ignores SIGTERM unless it handles it; Gradio closes the page on SIGINT.
STOPSIGNAL SIGINT
CMD ["python", "app.py"]
