# Completion of @PROGRAM@ in bash. No process is started, so that the completion is immediate.
# shellcheck shell=bash disable=SC2086 # lists of words are meant to be split

# Sets what may follow: `verbs`; `options`; `takes`, the kind of value after an option; `operand`, the kind of
# an argument.
_@FUNCTION@_known() {
    case $1 in
@KNOWN@
    esac
}

# Adds names that begin like the word under the cursor. Names that need quotes are left out.
_@FUNCTION@_offer() {
    local word
    for word; do
        [[ $word == "$cur"* && $word != *[!A-Za-z0-9._+/-]* && " ${COMPREPLY[*]} " != *" $word "* ]] || continue
        COMPREPLY+=("$word")
    done
}

_@FUNCTION@_value() {
    local path name directory
    case $1 in
        *,*) _@FUNCTION@_offer ${1//,/ } ;;
    esac
    case $1 in *KERNEL*)
        # org.clearlinux.native.6.15.7-1591 is 6.15.7-1591.native
        for path in "$root"/usr/lib/kernel/*; do
            [[ ${path##*/} =~ \.([^.]+)\.([0-9][^-]*-[0-9]+)$ ]] || continue
            _@FUNCTION@_offer "${BASH_REMATCH[2]}.${BASH_REMATCH[1]}" "${BASH_REMATCH[1]}"
        done ;;
    esac
    case $1 in *MODULE*)
        for path in "$root"/var/lib/dkms/*/*/source; do
            [[ -L $path || -d $path ]] || continue
            path=${path%/source} name=${path%/*}
            _@FUNCTION@_offer "${name##*/}" "${name##*/}/${path##*/}"
        done ;;
    esac
    case $1 in *DIR*)
        while IFS= read -r directory; do COMPREPLY+=("$directory"); done < <(compgen -d -- "$cur")
        # Outside of a completion there is nothing to set.
        compopt -o filenames 2>/dev/null ;;
    esac
    return 0
}

_@FUNCTION@() {
    local cur=${COMP_WORDS[COMP_CWORD]} verb='' root='' pending='' plain='' word at
    local verbs options takes operand
    COMPREPLY=()
    # bash splits --root=DIR into three words.
    [[ $cur != '=' ]] || cur=''
    _@FUNCTION@_known ''
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == '=' ]]; then
            continue
        elif [[ -n $pending ]]; then
            # Offers what exists in that root.
            if [[ $pending == --root= || $pending == --path= || $pending == -p= || $pending == --live-root= ]]; then
                word=${word//[\\\"\']/}
                root=${word/#\~/$HOME}
            fi
            pending=''
        elif [[ -z $plain && $word == -- ]]; then
            plain=1
        elif [[ -z $plain && $word == -* ]]; then
            [[ $takes != *" $word="* ]] || pending=$word=
        elif [[ -z $verb && -n $verbs ]]; then
            verb=$word
            _@FUNCTION@_known "$verb"
        fi
    done
    if [[ -n $pending ]]; then
        word=${takes#*" $pending"}
        _@FUNCTION@_value "${word%% *}"
    elif [[ -z $plain && $cur == -* ]]; then
        _@FUNCTION@_offer $options
    elif [[ -z $verb && -n $verbs ]]; then
        _@FUNCTION@_offer $verbs
    else
        _@FUNCTION@_value "$operand"
    fi
}

complete -F _@FUNCTION@ @PROGRAM@
