/**
 * `npm run deb`: a Debian package of the checkout, in `dist/godwit_VERSION_ARCH.deb`: command, units, manual page, completions,
 * the group `godwit`. It needs dpkg-deb, and npm for the dependencies that run beside the command.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { SHELLS } from '../src/cli/commands/completion.ts'
import { packageFiles } from './package-files.ts'

const HOME = 'usr/lib/godwit'
const UNITS = 'usr/lib/systemd/system'
const MAINTAINER = 'The godwit authors <godwit@localhost>'
/** Where the completions of each shell are. */
const COMPLETIONS: Readonly<Record<string, string>> = {
  bash: 'usr/share/bash-completion/completions/godwit',
  zsh: 'usr/share/zsh/vendor-completions/_godwit',
  fish: 'usr/share/fish/vendor_completions.d/godwit.fish',
}

const CONTROL = (version: string, architecture: string, kilobytes: number): string => `Package: godwit
Version: ${version}
Architecture: ${architecture}
Maintainer: ${MAINTAINER}
Installed-Size: ${kilobytes}
Depends: nodejs (>= 20), nftables, iproute2, passwd, libc6
Recommends: libssl3t64 | libssl3, openssl
Suggests: curl, rsync
Section: net
Priority: optional
Description: keeps connections alive while a host moves between networks
 Connections of a laptop, vehicle or device outlive a change of network:
 through an anchor of one's own, over several links at once, or without a
 tunnel between hosts that run godwit too. Each application may have a
 network of its own.
`

const UNIT_NAMES = 'godwit.service godwit@anchor.service godwit@router.service godwit@dime.service'

/** The group may reach the control socket; services are the administrator's to enable. */
const POSTINST = `#!/bin/sh
set -e
if [ "$1" = configure ]; then
  getent group godwit >/dev/null || groupadd --system godwit
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
  # When they are restarted is the administrator's choice: a stop ends connections that the MPTCP proxy translates.
  if [ -n "$2" ]; then
    for unit in ${UNIT_NAMES}; do
      if systemctl --quiet is-active $unit; then
        echo "godwit: $unit goes on with version $2; when it suits: systemctl restart $unit"
      fi
    done
  fi
fi
`

const PRERM = `#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ] && command -v deb-systemd-invoke >/dev/null; then
  deb-systemd-invoke stop ${UNIT_NAMES} || true
fi
`

const POSTRM = `#!/bin/sh
set -e
if [ "$1" = purge ]; then
  rm -rf /etc/godwit /var/lib/godwit
  if getent group godwit >/dev/null; then groupdel godwit || true; fi
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
`

const OVERRIDES = `# The project has no mail address.
godwit: bogus-mail-host *
godwit: bogus-mail-host-in-debian-changelog *
# koffi's prebuilt binding takes the C library from the process that loads it.
godwit: library-not-linked-against-libc *
# Units by the name of a template: the administrator enables them.
godwit: maintainer-script-calls-systemctl *
`

interface Manifest {
  readonly version: string
}

export function buildPackage(root: string, to: string): string {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest
  const stage = mkdtempSync(join(tmpdir(), 'godwit-deb-'))
  try {
    chmodSync(stage, 0o755)
    const put = (path: string, content: string | Buffer, mode = 0o644): void => {
      const file = join(stage, path)
      mkdirSync(dirname(file), { recursive: true })
      writeFileSync(file, content, { mode })
    }
    installProgram(root, join(stage, HOME), packageFiles(root))
    mkdirSync(join(stage, 'usr/bin'), { recursive: true })
    symlinkSync('../lib/godwit/bin/godwit', join(stage, 'usr/bin/godwit'))
    for (const name of readdirSync(join(root, 'examples/systemd')).filter((each) =>
      each.endsWith('.service'),
    ))
      put(`${UNITS}/${name}`, unit(readFileSync(join(root, 'examples/systemd', name), 'utf8')))
    put('usr/share/man/man1/godwit.1.gz', zipped(readFileSync(join(root, 'man/godwit.1'))))
    for (const [shell, path] of Object.entries(COMPLETIONS)) put(path, SHELLS[shell]!)
    const doc = 'usr/share/doc/godwit'
    put(`${doc}/copyright`, copyright())
    put('usr/share/lintian/overrides/godwit', OVERRIDES)
    put(`${doc}/changelog.gz`, zipped(changelog(manifest.version)))
    for (const name of ['README.md', 'CHANGELOG.md', 'SECURITY.md'])
      put(`${doc}/${name}`, readFileSync(join(root, name)))
    cpSync(join(root, 'docs'), join(stage, doc, 'docs'), { recursive: true })

    const kilobytes = Math.ceil(files(stage).reduce((sum, { size }) => sum + size, 0) / 1024)
    const architecture = execFileSync('dpkg', ['--print-architecture'], { encoding: 'utf8' }).trim()
    const sums = files(stage).map(({ path, sum }) => `${sum}  ${path}\n`)
    put('DEBIAN/md5sums', sums.join(''))
    put('DEBIAN/control', CONTROL(manifest.version, architecture, kilobytes))
    put('DEBIAN/postinst', POSTINST, 0o755)
    put('DEBIAN/prerm', PRERM, 0o755)
    put('DEBIAN/postrm', POSTRM, 0o755)
    execFileSync('chmod', ['-R', 'u=rwX,go=rX', stage])
    for (const { path } of files(stage)) if (path.endsWith('.node')) chmodSync(join(stage, path), 0o644)
    mkdirSync(to, { recursive: true })
    const file = join(to, `godwit_${manifest.version}_${architecture}.deb`)
    execFileSync('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', stage, file], { stdio: 'pipe' })
    return file
  } finally {
    rmSync(stage, { recursive: true, force: true })
  }
}

/** What npm would install, with the dependencies that run beside it. */
function installProgram(root: string, home: string, files: readonly string[]): void {
  mkdirSync(home, { recursive: true })
  const program = files.filter((name) => /^(bin|dist)\b/.test(name) && !name.endsWith('.d.ts'))
  for (const name of ['package.json', 'package-lock.json', ...program])
    cpSync(join(root, name), join(home, name), { recursive: true })
  const options = [
    '--omit=dev',
    '--omit=peer',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
  ]
  console.error('deb: fetching npm packages (npm ci)')
  const { status } = spawnSync('npm', ['ci', ...options], {
    cwd: home,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  if (status !== 0) throw new Error('npm ci failed; mend what it says (network?) and run this again')
  rmSync(join(home, 'package-lock.json'))
  // Commands of the dependencies, and what builds koffi.
  for (const name of ['.bin', 'koffi/cnoke.cjs'])
    rmSync(join(home, 'node_modules', name), { recursive: true, force: true })
  rmSync(join(home, 'node_modules/.package-lock.json'), { force: true })
}

/** The unit as it is in /usr/lib: without how to copy it, and with the command where the package has it. */
function unit(text: string): string {
  return text.slice(text.indexOf('[Unit]')).replaceAll('/opt/godwit/bin/godwit', '/usr/bin/godwit')
}

function copyright(): string {
  return `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: godwit

Files: *
Copyright: 2026 The godwit authors
License: Apache-2.0
 On Debian systems the whole text is in /usr/share/common-licenses/Apache-2.0.
Comment:
 Packages that are part of the program have their own licenses: /usr/lib/godwit/dist/bundle/LICENSES.
`
}

function changelog(version: string): string {
  const date = new Date().toUTCString().replace('GMT', '+0000')
  return `godwit (${version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- ${MAINTAINER}  ${date}\n`
}

function zipped(content: string | Buffer): Buffer {
  return gzipSync(content, { level: 9 })
}

function files(stage: string): { path: string; size: number; sum: string }[] {
  const entries = readdirSync(stage, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile() && !entry.parentPath.endsWith('DEBIAN'))
    .map((entry) => {
      const file = join(entry.parentPath, entry.name)
      const content = readFileSync(file)
      const sum = createHash('md5').update(content).digest('hex')
      return { path: relative(stage, file), size: content.length, sum }
    })
    .sort((a, b) => (a.path < b.path ? -1 : 1))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
  if (!existsSync(join(root, 'dist/src/cli/main.js'))) throw new Error('npm run build first')
  try {
    console.log(buildPackage(root, join(root, 'dist')))
  } catch (error) {
    console.error(`deb: ${(error as Error).message}`)
    process.exitCode = 1
  }
}
