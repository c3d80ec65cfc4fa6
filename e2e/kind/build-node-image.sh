#!/bin/bash
# Builds the node image of a kind cluster with the images of the control plane preloaded.
# Environment:
#   BASE                image of Debian bookworm
#   BINARIES            folder with hyperkube, etcd, coredns and pause
#   KIND_SOURCE         folder of the Go module sigs.k8s.io/kind
#   KUBERNETES_VERSION  of hyperkube, such as v1.36.3
#   NODE_IMAGE          name of the built image
set -euo pipefail
: "${BASE:?}" "${BINARIES:?}" "${KIND_SOURCE:?}" "${KUBERNETES_VERSION:?}" "${NODE_IMAGE:?}"
label=pinpipe.dev/build=node-image
recipe=$(cd "$(dirname "$0")/node" && pwd)
work=$(mktemp -d)
container=
# Containers that a killed run left behind.
docker ps --all --quiet --filter label=$label | xargs --no-run-if-empty docker rm --force --volumes
clean_up() {
  rm -rf "$work"
  [ -z "$container" ] || docker rm --force --volumes "$container" >/dev/null
}
trap clean_up EXIT

echo "== the images kubeadm asks for"
ln -s "$BINARIES/hyperkube" "$work/kubeadm"
images=$("$work/kubeadm" config images list --kubernetes-version "$KUBERNETES_VERSION")
echo "$images"
image() { grep "/$1:" <<<"$images"; }

echo "== the context"
mkdir "$work/context"
cp -r "$recipe/." "$work/context/"
cp -r --no-preserve=mode,ownership "$KIND_SOURCE/images/base/files" "$work/context/kind-base"
cp "$BINARIES/hyperkube" "$work/context/"
build() { # build TARGET IMAGE
  echo "== $2"
  docker build --target "$1" --build-arg BASE="$BASE" --build-arg PAUSE_IMAGE="$(image pause)" \
    --build-arg KUBERNETES_VERSION="$KUBERNETES_VERSION" --tag "$2" "$work/context"
}
build node "$NODE_IMAGE-without-images"
kubernetes=$(image kube-apiserver)
build kubernetes "$kubernetes"
for component in kube-controller-manager kube-scheduler kube-proxy; do
  docker tag "$kubernetes" "$(image $component)"
done
for component in etcd coredns pause; do
  echo "== $(image $component)"
  # etcd's manifest calls it by name through PATH; the others start by their entry point.
  tar --directory "$BINARIES" --transform 's#^#usr/local/bin/#' --owner=0 --group=0 \
    --numeric-owner --create "$component" |
    docker import --change 'ENV PATH=/usr/local/bin' \
      --change "ENTRYPOINT [\"/usr/local/bin/$component\"]" - "$(image $component)"
done

echo "== preload them"
container=$(docker run --detach --label $label --privileged --entrypoint sleep \
  "$NODE_IMAGE-without-images" infinity)
docker exec --detach "$container" \
  sh -c 'echo $$ >/run/containerd.pid; exec containerd >/run/containerd.log 2>&1'
for _ in {1..60}; do docker exec "$container" ctr version >/dev/null 2>&1 && break; sleep 0.5; done
# shellcheck disable=SC2086 # one word per image
docker save $images | docker exec --interactive "$container" \
  ctr -n k8s.io images import --all-platforms --no-unpack --digests -
docker exec "$container" sh -c '
  pid=$(cat /run/containerd.pid)
  kill $pid
  while kill -0 $pid 2>/dev/null; do sleep 0.1; done
  rm /run/containerd.*'
docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' \
  "$container" "$NODE_IMAGE"
docker inspect --format 'stop signal {{.Config.StopSignal}}, entry point {{.Config.Entrypoint}}' \
  "$NODE_IMAGE"
