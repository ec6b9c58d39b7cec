#!/usr/bin/env bash
# shellcheck disable=SC2034 # the variables are for the files that are sourced
# Evaluates one dkms.conf (a bash program) and answers with NUL-ended NAME=VALUE records on the first stdout.
# Arguments: kernelver arch kernel_source_dir dkms_tree source_tree install_tree module module_version
#     DIRECTIVES FILE…
# DIRECTIVES are all that there are, with a `|` between them: then what bash runs is answered too, before the
# records, as `set -x` writes it, and for a syntax error the line of the quote that causes it. Empty: without.
# What a file prints is not an answer, and what ends it early is caught below.
exec 3>&1 1>/dev/null 2>/dev/null </dev/null
kernelver=$1 arch=$2 kernel_source_dir=$3 kernel_config=$3/.config
dkms_tree=$4 source_tree=$5 install_tree=$6 module=$7 module_version=$8
_cd_kernel=$1 _cd_arch=$2 _cd_directives=$9
shift 9
_cd_files=("$@") _cd_syntax='' _cd_quote='' _cd_early=() _cd_again='' _cd_make=()
_cd_ignored=(CLEAN REMAKE_INITRD MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_ALIAS_TYPE
    MODULES_CONF_OBSOLETE_ONLY)
# In the order of dkms: a value can only refer to the ones before it.
_cd_names=(PACKAGE_NAME PACKAGE_VERSION POST_ADD POST_BUILD POST_INSTALL POST_REMOVE PRE_BUILD
    PRE_INSTALL BUILD_DEPENDS BUILD_EXCLUSIVE_ARCH BUILD_EXCLUSIVE_CONFIG BUILD_EXCLUSIVE_KERNEL
    BUILD_EXCLUSIVE_KERNEL_MIN BUILD_EXCLUSIVE_KERNEL_MAX OBSOLETE_BY MAKE MAKE_MATCH PATCH PATCH_MATCH
    BUILT_MODULE_NAME BUILT_MODULE_LOCATION DEST_MODULE_NAME DEST_MODULE_LOCATION AUTOINSTALL
    "${_cd_ignored[@]}")
set --
_cd_say() { printf '%s=%s\0' "$1" "$2" >&3; }
_cd_answer() {
    # Whatever the file has set for itself.
    set +eux
    local i n=0 used=0
    for i in ${#BUILT_MODULE_NAME[@]} ${#BUILT_MODULE_LOCATION[@]} ${#DEST_MODULE_NAME[@]} ${#DEST_MODULE_LOCATION[@]}; do
        ((i > n)) && n=$i
    done
    # What a reader that keeps only the end of a long answer would miss.
    _cd_say start start
    _cd_say package_name "$PACKAGE_NAME"
    _cd_say package_version "$PACKAGE_VERSION"
    _cd_say autoinstall "$AUTOINSTALL"
    for ((i = 0; i < n; i++)); do
        _cd_say built "${BUILT_MODULE_NAME[i]}"
        _cd_say built_location "${BUILT_MODULE_LOCATION[i]}"
        _cd_say dest "${DEST_MODULE_NAME[i]}"
        _cd_say location "${DEST_MODULE_LOCATION[i]}"
    done
    for i in "${BUILD_DEPENDS[@]}"; do _cd_say depends "$i"; done
    _cd_say makes "${MAKE[*]}"
    [[ ${MAKE_MATCH[0]} ]] && used=
    for i in "${!MAKE[@]}"; do
        [[ ${MAKE[i]} && ${MAKE_MATCH[i]} && $_cd_kernel =~ ${MAKE_MATCH[i]} ]] && used=$i
    done
    _cd_say make "${used:+${MAKE[used]}}"
    _cd_say make_written "${used:+${_cd_make[used]}}"
    for i in "${!PATCH[@]}"; do
        [[ ${PATCH[i]} && (! ${PATCH_MATCH[i]} || $_cd_kernel =~ ${PATCH_MATCH[i]}) ]] &&
            _cd_say patch "${PATCH[i]}"
    done
    for i in "${_cd_ignored[@]}"; do
        n="${i}[@]"
        # A file that also serves old versions of dkms sets CLEAN=true, and dkms does not warn about it.
        [[ ${!n} && $i${!n} != CLEANtrue ]] && _cd_say deprecated "$i"
    done
    # The first value of an array applies to the whole source, as in dkms before 3.3.0, where these directives
    # cannot be set for a single module.
    [[ $BUILD_EXCLUSIVE_KERNEL && ! $_cd_kernel =~ $BUILD_EXCLUSIVE_KERNEL ]] &&
        _cd_say excluded "BUILD_EXCLUSIVE_KERNEL is $BUILD_EXCLUSIVE_KERNEL"
    [[ $BUILD_EXCLUSIVE_ARCH && ! $_cd_arch =~ $BUILD_EXCLUSIVE_ARCH ]] &&
        _cd_say excluded "BUILD_EXCLUSIVE_ARCH is $BUILD_EXCLUSIVE_ARCH"
    _cd_say exclusive_config "$BUILD_EXCLUSIVE_CONFIG"
    _cd_say kernel_min "$BUILD_EXCLUSIVE_KERNEL_MIN"
    _cd_say kernel_max "$BUILD_EXCLUSIVE_KERNEL_MAX"
    _cd_say obsolete_by "$OBSOLETE_BY"
    for i in POST_ADD PRE_BUILD POST_BUILD PRE_INSTALL POST_INSTALL POST_REMOVE; do
        [[ ${!i} ]] && _cd_say hook "$i ${!i}"
    done
    _cd_say syntax "$_cd_syntax"
    _cd_say quote "$_cd_quote"
    for i in "${_cd_early[@]}"; do _cd_say early "$i"; done
    _cd_say again "$_cd_again"
    _cd_say end end
}
# The line where a quote opens that is never closed, of a file with a syntax error: the first one that is still
# open where another directive begins, for the next quote closes it, and so on; else the one that bash names.
_cd_open_quote() {
    local lines said i quote=''
    local looks_for="line ([0-9]+): unexpected EOF while looking for matching .[\`\"']"
    local directive="^[[:space:]]*($_cd_directives)(\[[^]]*\])?="
    mapfile -t -n 300 lines <"$1"
    for ((i = 1; i <= ${#lines[@]}; i++)); do
        if said=$("$BASH" -nc "$(printf '%s\n' "${lines[@]:0:i}")" 2>&1); then
            quote=
        elif [[ ! $quote && ${lines[i]} =~ $directive && $said =~ $looks_for ]]; then
            quote=${BASH_REMATCH[1]}
        fi
    done
    [[ ! $quote && $_cd_said =~ $looks_for ]] && quote=${BASH_REMATCH[1]}
    _cd_quote=$quote
}
# Writes the directives as assignments, as dkms does: the values are split into words, and what is left of a
# quote or a dollar sign is evaluated when they are read. The subshell of a file runs it.
_cd_write() {
    # Whatever the file has set for itself. IFS stays, as for dkms.
    set +eux
    local _cd_name _cd_at _cd_keys
    # What MAKE is before that.
    for _cd_at in "${!MAKE[@]}"; do printf '_cd_make[%s]=%q\n' "$_cd_at" "${MAKE[$_cd_at]}"; done
    for _cd_name in "${_cd_names[@]}"; do
        eval "_cd_keys=(\"\${!${_cd_name}[@]}\")"
        printf -v _cd_keys '%s ' "${_cd_keys[@]}"
        for _cd_at in ${_cd_keys% }; do
            eval "echo ${_cd_name}[\$_cd_at]=\\\"\${${_cd_name}[\$_cd_at]}\\\""
        done
    done
}
# After a signal, and when a value ends this shell, there is an answer too.
trap _cd_answer EXIT
# The file runs in a subshell, and what it writes last is read here.
shopt -s lastpipe
for _cd_at in "${!_cd_files[@]}"; do
    _cd_file=${_cd_files[_cd_at]} _cd_stderr='' _cd_out='' _cd_whole=''
    {
        shopt -u lastpipe
        _cd_errors=2
        if [[ $_cd_directives ]]; then
            BASH_XTRACEFD=3 PS4='@${BASH_SOURCE-}:${LINENO}@' _cd_errors=1
            set -x
        fi
        # shellcheck source=/dev/null
        . "$_cd_file" 2>&"$_cd_errors" >/dev/null
        printf '%s\0' "$?"
        _cd_write
        printf '\0'
    } | {
        # Not until the end of the pipe: a process in the background may hold it open.
        IFS= read -r -d '' _cd_stderr && _cd_whole=yes
        # What is written before the shell ends here counts.
        IFS= read -r -d '' _cd_out
    } || : # as for dkms, which calls the function in a list with &&: `set -e` of the file has no effect
    # dkms takes what stands before a syntax error, and so do we; but an unclosed quote swallows the rest unseen.
    # Without a trace, what stands before the NUL is the exit code alone, and a syntax error has one.
    if [[ $_cd_directives || $_cd_stderr != 0 ]] && ! _cd_said=$("$BASH" -n "$_cd_file" 2>&1); then
        [[ $_cd_directives && ! $_cd_syntax ]] && _cd_open_quote "$_cd_file"
        _cd_syntax+=${_cd_said:-broken}$'\n'
    fi
    if [[ $_cd_whole ]]; then
        # What ends the shell here ends dkms itself.
        _cd_again=$_cd_at
        eval "$_cd_out"
        _cd_again=
    else
        # The shell that ran the file has ended before the file has: dkms then takes nothing from it.
        _cd_said=${_cd_stderr##*"$_cd_file: line "}
        [[ $_cd_said == "$_cd_stderr" ]] && _cd_said=
        _cd_early+=("$_cd_at ${_cd_said%%$'\n'*}")
    fi
done
trap - EXIT
_cd_answer
