# The README's own commands on a bare Debian: docker build -t chrysalis . && docker run -p 7860:7860 chrysalis
FROM python:3.12-slim-bookworm
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 artist
WORKDIR /home/artist/chrysalis
RUN chown artist:artist .
USER artist
COPY --chown=artist:artist requirements.txt Makefile ./
RUN make install
COPY --chown=artist:artist . .
ENV HOST=0.0.0.0 PORT=7860
EXPOSE 7860
CMD ["make", "run"]
