#!/bin/sh
# Makes the secrets of compose.yml, once: passwords, the file with the URLs that hold them, and the key of Prometheus.
#
#     ./prepare.sh [FOLDER]       # ./secrets when no other folder is named
#
# What is there stays as it is.  The folder is yours alone (0700); the files in it can be read by everybody who gets that
# far, for compose mounts them as they are, into containers whose users are not you.
set -eu
cd "$(dirname "$0")"
folder=${1:-secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

password() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

keep() { # NAME: writes standard input to the file, unless it is there
    if [ ! -s "$folder/$1" ]; then
        cat > "$folder/$1.new"
        chmod 644 "$folder/$1.new"
        mv "$folder/$1.new" "$folder/$1"
    fi
}

password | keep postgres_password
password | keep grafana_password
echo "requirepass $(password)" | keep valkey.conf
keep tailrace.env << END
TAILRACE_DATABASE_URL=postgresql://tailrace:$(cat "$folder/postgres_password")@postgres:5432/tailrace
TAILRACE_BUS_URL=redis://:$(sed 's/^requirepass //' "$folder/valkey.conf")@valkey:6379
END

# Prometheus asks for /metrics with a key of its own.  The keys file is in a volume, so Tailrace itself has to make it.
if [ ! -s "$folder/prometheus_key" ]; then
    : > "$folder/prometheus_key" # compose wants every file that it names
    docker compose build migrate
    docker compose run --rm --no-TTY keys create --name prometheus --scopes admin | keep prometheus_key
    [ -s "$folder/prometheus_key" ] || { echo "no key was made; run this again" >&2 && exit 1; }
fi
