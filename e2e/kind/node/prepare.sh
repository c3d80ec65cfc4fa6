#!/bin/bash
# Runs in the node image after kind's own base files are in place: the clean-up of kind's
# Dockerfile, then the changes for Debian's containerd and CNI plug-ins, and for hosts without
# CAP_SYS_RESOURCE or cgroup v2.
set -euo pipefail

chmod 755 /usr/local/bin/entrypoint /usr/local/bin/clean-install /kind /kind/bin /kind/bin/*.sh
ln -sf /lib/systemd/systemd /sbin/init
ln -sf /usr/bin/containerd /usr/local/bin/containerd
mkdir -p /opt/cni /etc/kubernetes/manifests /etc/cni/net.d
ln -sfn /usr/lib/cni /opt/cni/bin

# As kind's Dockerfile.
find /lib/systemd/system/sysinit.target.wants/ -name systemd-tmpfiles-setup.service -delete
rm -f /lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* /etc/systemd/system/*.wants/* \
  /lib/systemd/system/sockets.target.wants/{*udev*,*initctl*,dbus.socket}
echo 'ReadKMsg=no' >>/etc/systemd/journald.conf
systemctl enable kubelet.service containerd.service undo-mount-hacks.service
systemctl mask systemd-binfmt.service

# For hosts with cgroup v1, or whose root may not lower an OOM score.
sed -i 's#^KUBELET_EXTRA_ARGS=.*#& --fail-cgroupv1=false#' /etc/default/kubelet
sed -i '/^OOMScoreAdjust/d' /etc/systemd/system/containerd.service
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' /etc/containerd/config.toml
sed -i "s#^  sandbox_image = .*#  sandbox_image = \"$PAUSE_IMAGE\"#" /etc/containerd/config.toml
rm -f /etc/cni/net.d/*
cat >>/etc/containerd/config.toml <<'TOML'

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
  conf_template = "/etc/containerd/cni.template"
TOML

# Calls the script in the branch of kind's entrypoint for cgroup v1 with a cgroup namespace: the
# line indented by four.
line='^    # kubelet will try to manage cgroups / pods that are not owned by it when$'
sed -i "s|$line|    hide-unmounted-controllers\\n&|" /usr/local/bin/entrypoint
grep -q hide-unmounted-controllers /usr/local/bin/entrypoint

# The base specification of containers, as in kind's Dockerfile, without its hook for product
# files, which needs DMI.
ctr oci spec | jq 'del(.process.rlimits)' >/etc/containerd/cri-base.json

for name in kubelet kubeadm kubectl; do ln -sf hyperkube /usr/bin/$name; done
