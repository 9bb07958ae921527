# One image per kind of pod: `docker build --target operator .`, or `python -m lab images` where there is no Docker.
#
# The locked dependencies are one layer and the project's own code another on top of it, so that a change of sources
# neither installs nor moves the big layer again. What installs them is in `hack/image`; pip leaves with the step that
# used it. All images work with a read-only root file system: bytecode is compiled here, and never written later. Each
# holds its bill of materials (CycloneDX) in /opt/trimtab/sbom.cdx.json. A target must build by its name alone and an ARG
# cannot learn that name, so each says it to the one script that installs.
#
# The base is a tag, which moves with every fix to Debian and Python. What is released names it by digest, or nobody can
# build the same again: --build-arg BASE=python:3.11-slim-bookworm@sha256:DIGEST.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS python
ENV PATH=/opt/trimtab/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOGNAME=trimtab \
    HOME=/tmp
WORKDIR /tmp
# What the three kinds of jobs start; the others say their own.
ENTRYPOINT ["python", "-m", "trimtab_jobs"]
# kopf asks for the user's name, which a bare number does not have.
RUN echo 'trimtab:x:65532:65532:Trimtab:/tmp:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'trimtab:x:65532:' >>/etc/group \
 && python3 -m venv --without-pip /opt/trimtab
COPY hack/image /opt/trimtab/build
COPY locks/cyclonedx-bom.txt /opt/trimtab/locks/

FROM python AS project
# The build backend comes once here instead of with each change of sources.
COPY locks/setuptools.txt /locks/
RUN python3 -m venv /pip && /pip/bin/pip install --require-hashes -r /locks/setuptools.txt
COPY pyproject.toml README.md LICENSE /source/
COPY operator /source/operator
COPY jobs /source/jobs
# A wheel is an archive, and archives hold times: the first that they can hold, as all layers have in the lab.
ARG SOURCE_DATE_EPOCH=315532800
RUN /pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /source \
 && /pip/bin/pip --python /opt/trimtab/bin/python install --no-compile --no-deps /wheels/*.whl \
 && PYTHONHASHSEED=0 python -m compileall -q --invalidation-mode unchecked-hash /opt/trimtab/lib

FROM python AS operator
COPY locks/operator.txt /opt/trimtab/locks/
RUN /opt/trimtab/build/install operator
COPY --from=project /opt/trimtab /opt/trimtab
USER 65532:65532
ENTRYPOINT ["trimtab", "operator"]

FROM python AS jobs
COPY locks/jobs.txt /opt/trimtab/locks/
RUN /opt/trimtab/build/install jobs
COPY --from=project /opt/trimtab /opt/trimtab
USER 65532:65532

FROM python AS jobs-torch
COPY locks/jobs-torch.txt /opt/trimtab/locks/
RUN /opt/trimtab/build/install jobs-torch
COPY --from=project /opt/trimtab /opt/trimtab
USER 65532:65532

FROM python AS jobs-tensorrt
COPY locks/jobs-tensorrt.txt /opt/trimtab/locks/
RUN /opt/trimtab/build/install jobs-tensorrt
COPY --from=project /opt/trimtab /opt/trimtab
USER 65532:65532

FROM python AS server
COPY locks/server.txt /opt/trimtab/locks/
RUN /opt/trimtab/build/install server
COPY --from=project /opt/trimtab /opt/trimtab
USER 65532:65532
ENTRYPOINT ["python", "-m", "trimtab_jobs.serve"]
