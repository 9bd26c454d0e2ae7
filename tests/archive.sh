# Sourced by tests/drivers and tests/cards/run: packages of Debian's archive, unpacked into a folder of ours; nothing on the
# system is changed.

# Ends with what is missing where packages of $1 do not run on this system.
needs_debian_12() {
    local system
    system="$(. /etc/os-release 2>/dev/null; echo "${ID:-another system} ${VERSION_ID:-}") $(uname -m)"
    if [ "$system" != "debian 12 x86_64" ]; then
        echo "$1 is fetched from the archive of Debian 12 for x86_64; this is $system: nothing was checked" >&2
        exit 1
    fi
}

# The first Debian mirror that this machine's apt knows.
mirror() { apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/$'; }

# apt with lists and a cache of its own in folder $1, over suites $2: what is installed plays no part if $3 is `alone`.
apt_in() {
    local folder=$1 suites=$2 alone=$3 suite
    shift 3
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    for suite in $suites; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main"
    done > "$folder/sources.list"
    local options=(
        -qq -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache"
        -o "APT::Sandbox::User=$(id -un)" -o Acquire::Languages=none
    )
    if [ "$alone" = alone ]; then
        : > "$folder/status"
        options+=(-o Dir::Etc::preferencesparts=/dev/null -o "Dir::State::status=$folder/status")
    fi
    apt-get "${options[@]}" update
    apt-get "${options[@]}" "$@"
}

# A driver's description for the Vulkan loader: library, file.
describe() { printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s","api_version":"%s"}}\n' "$1" "${3:-1.3.0}" > "$2"; }
