#!/bin/sh
# environment.sh install   make .venv from constraints.txt
# environment.sh lock      resolve settings.ini afresh and write constraints.txt
set -eu
log=.venv/pip.log

fail() { echo "$*" >&2; exit 1; }

find_python() {
    seen=
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$name" >/dev/null 2>&1 || continue
        version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$name"
            return
        fi
        seen="${seen:-$name is $version}"
    done
    fail "Python 3.11 or newer is needed; ${seen:-no python3 was found}."
}

make_venv() {  # make_venv FOLDER
    command -v git >/dev/null 2>&1 || fail "git is needed and was not found."
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python lacks its venv module; on Debian: apt install python3-venv."
    "$python" -m venv --clear "$1" || fail "$python could not make the folder $1."
}

pip() {  # pip FOLDER ARGUMENTS...
    folder=$1
    shift
    "$folder/bin/python" -m pip --disable-pip-version-check --no-input "$@" >>"$log" 2>&1 && return
    if grep -qE 'NewConnectionError|ConnectTimeout|NameResolution|ProxyError|ConnectionError' "$log"; then
        fail "pip found no network and could not install; its log is $log."
    fi
    fail "pip could not install; its log is $log."
}

setting() {  # setting KEY: the words of one list in settings.ini, one a line
    "$1/bin/python" - "$2" <<'END'
import configparser, sys
parser = configparser.ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
print("\n".join(parser["DEFAULT"][sys.argv[1]].split()))
END
}

case ${1:-} in
install)
    [ -x .venv/bin/python ] || make_venv .venv
    echo "installing into .venv (the first time takes minutes)"
    : >"$log"
    pip .venv install -r constraints.txt
    pip .venv install --no-deps --no-build-isolation -e .
    ;;
lock)
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    log=$fresh/pip.log
    make_venv "$fresh/venv"
    { setting "$fresh/venv" requirements; setting "$fresh/venv" dev_requirements; } >"$fresh/wanted"
    pip "$fresh/venv" install -r "$fresh/wanted"
    "$fresh/venv/bin/python" -m pip freeze --all --exclude pip |
        sed 's/+.*//' | LC_ALL=C sort -f >"$fresh/frozen"
    if grep -vE '^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$' "$fresh/frozen"; then
        fail "these lines cannot be locked; constraints.txt stays as it was."
    fi
    cp "$fresh/frozen" constraints.txt
    echo "constraints.txt: $(wc -l <constraints.txt) packages"
    ;;
*)
    fail "usage: environment.sh install|lock"
    ;;
esac
