#!/bin/bash
# Collects in /out the files of the image of the Kubernetes components besides their binary: the
# tools that kube-proxy runs, with their modules and libraries, and a link for each component.
set -euo pipefail

modules=$(dirname "$(find /usr/lib -path '*/xtables/libxt_tcp.so')")
for file in /usr/sbin/xtables-nft-multi /usr/sbin/nft /usr/sbin/conntrack "$modules"/*.so; do
  install -Dm755 "$file" "/out$file"
  for library in $(ldd "$file" | grep -o '/[^ ]*'); do
    library=$(readlink -f "$(dirname "$library")")/$(basename "$library")
    [ -e "/out$library" ] || install -Dm755 "$library" "/out$library"
  done
done
for tool in {iptables,ip6tables}{,-save,-restore}; do ln -s xtables-nft-multi "/out/usr/sbin/$tool"; done
mkdir -p /out/usr/local/bin /out/etc /out/run /out/usr/lib64
install -dm1777 /out/tmp
install -m644 /etc/protocols /out/etc/ 2>/dev/null || true
for name in lib lib64 sbin; do ln -s "usr/$name" "/out/$name"; done
for component in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
  ln -s hyperkube "/out/usr/local/bin/$component"
done
