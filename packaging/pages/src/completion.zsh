# Offers names that exist on the system. No process is started, so that the completion is immediate.
_clr_dkms_root() { # sets `root` to the requested root, which _arguments removes from $words
    local -a typed=(${(z)LBUFFER})
    local -i at
    root=
    for ((at = 1; at < ${#typed}; at++)); do
        case $typed[at] in
            clr-dkms* | */clr-dkms*) root= ;;
            --root=* | --path=* | --live-root=*) root=${(Q)typed[at]#*=} ;;
            -p | --root | --path | --live-root) root=${(Q)typed[at+1]} ;;
        esac
    done
    root=${root/#\~/$HOME}
}

_clr_dkms_kernels() {
    local root file expl
    local -aU kernels
    _clr_dkms_root
    # org.clearlinux.native.6.15.7-1591 is 6.15.7-1591.native
    for file in $root/usr/lib/kernel/*(N:t); do
        [[ $file =~ '\.([^.]+)\.([0-9][^-]*-[0-9]+)$' ]] && kernels+=($match[2].$match[1] $match[1])
    done
    _wanted kernels expl kernel compadd -a kernels
}

_clr_dkms_modules() {
    local root source expl
    local -aU modules
    _clr_dkms_root
    for source in $root/var/lib/dkms/*/*/source(N); do
        modules+=(${source:h:h:t} ${source:h:h:t}/${source:h:t})
    done
    _wanted modules expl module compadd -a modules
}

_clr_dkms_modules_or_directories() { _alternative 'modules:module:_clr_dkms_modules' 'directories:directory:_files -/' }

