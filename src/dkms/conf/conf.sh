#!/usr/bin/env bash
# shellcheck disable=SC2034 # the variables are for the files that are sourced
# Evaluates one dkms.conf (a bash program) and answers with NUL-ended NAME=VALUE records on the first stdout.
# Arguments: kernelver arch kernel_source_dir dkms_tree source_tree install_tree module module_version
#     DIRECTIVES FILE…
# DIRECTIVES are all that there are, with a `|` between them: then what bash runs is answered too, before the
# records, as `set -x` writes it, and for a syntax error the line of the quote that causes it. Empty: without.
exec 3>&1 1>/dev/null 2>/dev/null </dev/null
kernelver=$1 arch=$2 kernel_source_dir=$3 kernel_config=$3/.config
dkms_tree=$4 source_tree=$5 install_tree=$6 module=$7 module_version=$8
_cd_kernel=$1 _cd_arch=$2 _cd_directives=$9
shift 9
_cd_files=("$@") _cd_syntax='' _cd_quote=''
set --
_cd_say() { printf '%s=%s\0' "$1" "$2" >&3; }
_cd_answer() {
    # Whatever the file has set for itself.
    set +eux
    local i n=0
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
    n=
    [[ ${MAKE_MATCH[0]} ]] || n=${MAKE[0]}
    for i in "${!MAKE[@]}"; do
        [[ ${MAKE[i]} && ${MAKE_MATCH[i]} && $_cd_kernel =~ ${MAKE_MATCH[i]} ]] && n=${MAKE[i]}
    done
    _cd_say make "$n"
    for i in "${!PATCH[@]}"; do
        [[ ${PATCH[i]} && (! ${PATCH_MATCH[i]} || $_cd_kernel =~ ${PATCH_MATCH[i]}) ]] &&
            _cd_say patch "${PATCH[i]}"
    done
    for i in CLEAN REMAKE_INITRD MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_ALIAS_TYPE \
        MODULES_CONF_OBSOLETE_ONLY; do
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
# A conf that leaves early counts with what it had assigned until then, as it does for dkms.
trap _cd_answer EXIT
for _cd_file in "${_cd_files[@]}"; do
    # dkms takes what stands before a syntax error, and so do we; but an unclosed quote swallows the rest unseen.
    if ! _cd_said=$("$BASH" -n "$_cd_file" 2>&1); then
        [[ $_cd_directives && ! $_cd_syntax ]] && _cd_open_quote "$_cd_file"
        _cd_syntax+=${_cd_said:-broken}$'\n'
    fi
    if [[ $_cd_directives ]]; then
        BASH_XTRACEFD=3 PS4='@${BASH_SOURCE}:${LINENO}@'
        set -x
    fi
    # shellcheck source=/dev/null
    . "$_cd_file"
    set +x
done
trap - EXIT
_cd_answer
