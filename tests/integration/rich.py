"""An app that uses much of what a Compose file can say."""

from __future__ import annotations

RICH: dict[str, str | bytes | None] = {
    "Dockerfile": """\
FROM busybox:1.37 AS app
ARG NUMBER API
RUN echo "$NUMBER $API" > /built
COPY www /www
ENTRYPOINT ["env", "ENTERED=yes"]
CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
FROM app AS other
RUN exit 9
""",
    "www/index.html": "rich\n",
    ".env": "ONE=dotenv\nTWO=dotenv\n",
    ".env.preview": "TWO=preview\n",
    "app.env": "THREE=env_file ${TWO}\n",
    "notes.txt": "read only\n",
    "compose.yaml": """\
x-preview: {web: web}
x-app: &app
  build:
    context: .
    target: app
    args: {NUMBER: "${PREVIEW_NUMBER}", API: "${PREVIEW_API_URL}"}
  init: true
  stop_grace_period: 1s
services:
  web:
    <<: *app
    ports: ["80:8080"]
    entrypoint: []
    command: [httpd, -f, -p, "8080", -h, /www]
    extra_hosts: ["one.example.org=192.0.2.1", "two.example.org=192.0.2.1"]
    env_file: [app.env]
    environment:
      ONE: "${ONE}"
      API: "${PREVIEW_API_URL}"
      ME: "${PREVIEW_WEB_URL:-laptop}"
      PRICE: "5$$"
    volumes: ["data:/data", "./notes.txt:/notes.txt:ro"]
    configs: [{source: banner, target: /etc/banner}]
    healthcheck: {test: [CMD, test, -e, /www/index.html], interval: 1s}
    depends_on:
      prepare: {condition: service_completed_successfully}
      cache: {condition: service_healthy}
    deploy: {resources: {limits: {memory: 64M, cpus: "0.5", pids: 50}}}
    x-preview:
      migrate: [sh, -c, "echo migrate >> /data/log"]
      seed: [sh, -c, "echo seed >> /data/log"]
      after_deploy: [sh, -c, "echo after_deploy $$API >> /data/log"]
      before_down: [sh, -c, "exit 42"]
  api:
    <<: *app
    entrypoint: [sh, -c]
    command: ["hostname > /www/index.html; exec httpd -f -p 9090 -h /www"]
    ports: ["9090"]
    deploy: {replicas: 3}
  scheduler:
    <<: *app
    user: "1234:5678"
    working_dir: /tmp
    environment: {NAME: expanded, LITERAL: "$$(NAME)"}
    command:
      - sh
      - -c
      - 'echo "$$1 $$LITERAL $$ENTERED $$PWD $$(id -u):$$(id -g)" > told; exec sleep 3600'
      - sh
      - "$$(NAME)"
    x-preview: {exactly_one: true, size: small}
  prepare:
    <<: *app
    command: [sh, -c, "echo prepared >> /data/log"]
    volumes: ["data:/data"]
  cache:
    image: redis:8
    healthcheck: {test: [CMD-SHELL, "test $$$$ -gt 0 && redis-cli ping"], interval: 1s}
  fill:
    image: redis:8
    command: [redis-cli, -h, cache, set, filled, "yes"]
    depends_on: {cache: {condition: service_healthy}}
    restart: "no"
  tools:
    image: there.is.no/such:image
    profiles: [tools]
volumes: {data: {}}
configs:
  banner: {content: "for ${PREVIEW_NAME} at $$5"}
""",
}
