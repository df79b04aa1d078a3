#!/bin/sh
# npm test: sets the checkout up, then runs every tier that this machine can run (scripts/test.ts).
#   --long         the long tier too
#   --tier NAME    only check, unit, sim, nodes, netns or long (may be repeated)
#   --no-install   install no system packages and fetch no other Node.js; what needs them is skipped
#   --strict       what passes only on the second try has failed
#   PATH…          only these test files, e.g. test/unit/host/config.test.ts
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$root/scripts/setup.sh"
setup_checkout "$root"
cd "$root"
exec node dist/scripts/test.js "$@"
