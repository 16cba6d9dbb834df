# For labs whose programs come from Debian's packages that are downloaded and unpacked, not installed:
# what this machine runs, and at what times, is left alone.  To be sourced; no privileges are needed.

# The package lists are the machine's; where it has none, or they are too old, our own.
download() { # FOLDER FUNCTION: the packages that FUNCTION prints, which is given options of apt-cache
    (
        cd "$1"
        fetch "$2" && return
        mkdir -p lists/partial cache/archives/partial
        function=$2
        set -- -o "Dir::State::lists=$1/lists" -o "Dir::Cache=$1/cache"
        apt-get -q "$@" update && fetch "$function" "$@"
    )
}

fetch() { # FUNCTION APT-OPTION...
    function=$1
    shift
    names=$("$function" "$@")
    # shellcheck disable=SC2086  # a list
    [ -n "$names" ] && apt-get -q -o APT::Sandbox::User=root "$@" download $names
}
