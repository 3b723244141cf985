#!/usr/bin/env bash
# What the tests need of the system: FFmpeg, a Postgres server, Node with npm, curl, strace, bubblewrap, FriBidi, nginx, Chromium.
# As root on Debian or Ubuntu it installs what is missing; elsewhere it says what to install.
set -euo pipefail

have_postgres() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
have_node() { command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node, 10) < 20 ? 1 : 0)'; }
have_chromium() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }
# To its end: grep -q would hang up on ldconfig, which pipefail takes for a failure.
have_fribidi() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep 'libfribidi\.so\.0' >/dev/null; }

missing=()
have_postgres || missing+=(postgresql)
have_node || missing+=(nodejs npm)
command -v curl >/dev/null || missing+=(curl)
command -v openssl >/dev/null || missing+=(openssl)
command -v strace >/dev/null || missing+=(strace)
[ -x /usr/bin/ffmpeg ] || [ -x /usr/local/bin/ffmpeg ] || missing+=(ffmpeg)
command -v bwrap >/dev/null || missing+=(bubblewrap)
have_fribidi || missing+=(libfribidi0)
[ -x /usr/sbin/mkfs.ext4 ] || [ -x /sbin/mkfs.ext4 ] || missing+=(e2fsprogs)
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || missing+=(nginx-light)
have_chromium || missing+=(chromium)

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing for the tests: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    timeout 300 apt-get update -qq
    timeout 900 apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "The tests need these system packages: ${missing[*]}" >&2
    echo "Install them, on Debian and Ubuntu with: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
have_postgres || { echo "Still no Postgres server (initdb) to be found." >&2; exit 1; }
have_node || { echo "Node 20 or newer with npm is needed (Debian 13, Ubuntu 25.04 and later bring it; elsewhere see nodejs.org)." >&2; exit 1; }
have_chromium || { echo "Chromium is needed (Debian brings it as chromium; Ubuntu only as a snap: Google Chrome serves as well)." >&2; exit 1; }
