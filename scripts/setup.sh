# Sets a checkout up: Node.js, npm packages, build. Sourced by bin/godwit and scripts/test.sh; POSIX sh. Says what it
# does on standard error, and does nothing when nothing is to do.

# setup_checkout ROOT: exits with 3 and the way to mend it when this machine lacks something.
setup_checkout() {
  if ! command -v node >/dev/null 2>&1; then
    if [ -n "${SUDO_USER:-}" ]; then
      echo "godwit: root does not find Node.js; if you have it, run: sudo env \"PATH=\$PATH\" $0" >&2
    else
      echo "godwit: Node.js 20 or newer and npm are needed: https://nodejs.org, or your distribution's packages" >&2
    fi
    exit 3
  fi
  setup_major=$(node -p 'process.versions.node.split(".")[0]')
  if [ "$setup_major" -lt 20 ]; then
    echo "godwit: Node.js 20 or newer is needed, this is $(node --version): https://nodejs.org" >&2
    exit 3
  fi
  if setup_lacks_packages "$1"; then setup_locked "$1" npm; fi
  if setup_stale "$1"; then setup_locked "$1" build; fi
}

# setup_lacks_packages ROOT: whether npm packages are missing or those of another lock file. npm writes
# .package-lock.json when it is done; .godwit-lock is the lock file that was installed. Linked packages are left alone.
setup_lacks_packages() {
  [ -f "$1/node_modules/.package-lock.json" ] || return 0
  [ -h "$1/node_modules" ] && return 1
  if [ ! -f "$1/node_modules/.godwit-lock" ]; then
    cp "$1/package-lock.json" "$1/node_modules/.godwit-lock" 2>/dev/null || true
    return 1
  fi
  ! cmp -s "$1/package-lock.json" "$1/node_modules/.godwit-lock"
}

# setup_stale ROOT: whether the build is missing or older than a source.
setup_stale() {
  [ -f "$1/dist/.built" ] || return 0
  [ -n "$(cd "$1" && find src lab bench test scripts examples tsconfig.json package-lock.json \
    -newer dist/.built -print 2>/dev/null | head -n 1)" ]
}

# setup_locked ROOT STEP: does the step unless another command has just done it.
setup_locked() {
  (
    if command -v flock >/dev/null 2>&1 && { exec 9>"$1/.setup.lock"; } 2>/dev/null; then flock 9; fi
    case $2 in
      npm) if setup_lacks_packages "$1"; then setup_npm "$1"; fi ;;
      build) if setup_stale "$1"; then setup_build "$1"; fi ;;
    esac
  ) || exit $?
}

setup_npm() {
  if ! command -v npm >/dev/null 2>&1; then
    echo "godwit: npm is needed to fetch its packages: https://nodejs.org, or sudo apt-get install npm" >&2
    exit 3
  fi
  echo "godwit: installing npm packages (npm ci)" >&2
  if ! (cd "$1" && npm ci --loglevel=error >&2); then
    echo "godwit: npm ci failed; mend what it says (network?) and run this again" >&2
    exit 1
  fi
  cp "$1/package-lock.json" "$1/node_modules/.godwit-lock"
  setup_own "$1" node_modules
}

# Into a folder beside dist, so that what runs is never half a build, and files of removed sources go.
setup_build() {
  echo "godwit: building" >&2
  rm -rf "$1/dist.new" "$1/dist.old"
  mkdir "$1/dist.new"
  : >"$1/dist.new/.built"
  if ! (cd "$1" && node node_modules/typescript/bin/tsc -p tsconfig.json --outDir dist.new >&2 &&
    node dist.new/scripts/bundle.js >&2); then
    echo "godwit: the build failed" >&2
    exit 1
  fi
  if [ -d "$1/dist" ]; then mv "$1/dist" "$1/dist.old"; fi
  mv "$1/dist.new" "$1/dist"
  rm -rf "$1/dist.old"
  setup_own "$1" dist
}

# setup_own ROOT FOLDER: under sudo, what is made in a user's checkout stays the user's.
setup_own() {
  if [ "$(id -u)" = 0 ]; then chown -R --reference="$1" "$1/$2" 2>/dev/null || true; fi
}
