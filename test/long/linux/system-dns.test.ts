/**
 * The programs that manage the name servers of a host, themselves: systemd-resolved, openresolv and Debian's resolvconf, each as its
 * package has it, laid over this system in a mount namespace of its own, since the three cannot be installed together and would
 * change the name servers of this machine. One process sets ours and ends, as a killed daemon does; another gives back.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { capture } from '../../../scripts/capture.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('apt-get', 'dbus-daemon', 'dpkg-deb', 'ip', 'unshare')

const PACKAGES = ['systemd-resolved', 'openresolv', 'resolvconf'] as const
type Package = (typeof PACKAGES)[number]
const MODULE = new URL('../../../src/linux/system-dns.js', import.meta.url).href
const DEVICE = 'godwit0'
const THEIRS = '192.0.2.53'
const OURS = '10.9.9.53'

let folder: string
/** Why there are no packages here. */
let lacking: string | undefined

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-dns-'))
  for (const name of PACKAGES) {
    const script = `cd ${folder} && apt-get download -q ${name} && dpkg-deb -x ${name}_*.deb ${folder}/${name}`
    const { status, text } = await capture('sh', ['-c', script])
    if (status !== 0) lacking = `${name} cannot be had here: ${text.trim().slice(-200)}`
    // Debian's older packages have them beside /usr, where links lead into it.
    for (const each of ['bin', 'sbin', 'lib']) {
      const from = join(folder, name, each)
      const to = join(folder, name, 'usr', each)
      if (existsSync(from)) await capture('sh', ['-c', `mkdir -p ${to} && cp -a ${from}/. ${to}`])
    }
  }
})

after(() => rmSync(folder, { recursive: true }))

/** Lays the package over the system, with an /etc and a /run of its own. */
const ENTER = `
  mkdir -p "$1/usr" "$1/etc" "$1-work"
  mount -t tmpfs tmpfs "$1-work"
  mkdir "$1-work/upper" "$1-work/work"
  mount -t overlay overlay -o lowerdir="$1/usr:/usr" /usr
  mount -t overlay overlay -o lowerdir="$1/etc:/etc",upperdir="$1-work/upper",workdir="$1-work/work" /etc
  mount -t tmpfs tmpfs /run
  ip link set lo up
  ip tuntap add dev ${DEVICE} mode tun
  ip address add 198.19.0.1/32 dev ${DEVICE}
  ip link set ${DEVICE} up
  rm -f /etc/resolv.conf
  echo 'nameserver ${THEIRS}' > /etc/resolv.conf
`

const node = (body: string) =>
  `'${process.execPath}' --input-type=module -e "const { SystemDns, dnsKeeper } = await import('${MODULE}'); const dns = new SystemDns('${DEVICE}'); ${body}"`
const SET = node(
  `const keeper = dnsKeeper(); console.log('keeper ' + keeper); dns.set(keeper, ['${OURS}']); process.kill(process.pid, 'SIGKILL')`,
)
const GIVE_BACK = node('dns.giveBack()')

/** What these steps print, by name. */
async function steps(
  name: Package,
  made: string,
  ...each: readonly [name: string, command: string][]
): Promise<Record<string, string>> {
  const script = join(folder, `${name}.sh`)
  const shown = each.map(([what, command]) => `echo '== ${what}'; ${command} || true`).join('\n')
  writeFileSync(script, `set -e\n${ENTER}\n${made}\n${shown}\n`)
  mkdirSync(join(folder, name), { recursive: true })
  const args = ['-m', '-n', '-p', '-f', '--kill-child', 'sh', script, join(folder, name)]
  const { text } = await capture('unshare', args)
  const out: Record<string, string> = { all: text }
  for (const part of text.split(/^== /m).slice(1)) {
    const end = part.indexOf('\n')
    out[part.slice(0, end)] = part.slice(end + 1).trim()
  }
  return out
}

const SHOW = "echo $(grep '^nameserver' /etc/resolv.conf)"

for (const [name, made] of [
  ['openresolv', `echo 'nameserver ${THEIRS}' | resolvconf -a eth0.dhcp`],
  [
    'resolvconf',
    // Hooks of packages that this machine has are not what is tried.
    `rm -f /etc/resolvconf/update.d/unbound
     mkdir -p /run/resolvconf/interface
     ln -sf /run/resolvconf/resolv.conf /etc/resolv.conf
     resolvconf --enable-updates
     echo 'nameserver ${THEIRS}' | resolvconf -a eth0.dhcp`,
  ],
] as const)
  test(`UP-37, [host] dns: ${name} itself: ours come first, and what was there is back after a daemon that was killed`, async (t) => {
    if (lacking !== undefined) return t.skip(lacking)
    const seen = await steps(
      name,
      made,
      ['before', SHOW],
      ['set', SET],
      ['during', SHOW],
      ['back', GIVE_BACK],
      ['after', SHOW],
      ['again', `${GIVE_BACK}; ${SHOW}`],
    )
    assert.match(seen.before ?? seen.all!, new RegExp(`^nameserver ${THEIRS}$`), seen.all)
    assert.match(seen.set!, /^keeper resolvconf/, seen.all)
    assert.match(seen.during!, new RegExp(`^nameserver ${OURS}( |$)`), seen.all)
    assert.equal(seen.back, '', seen.all)
    assert.equal(seen.after, seen.before, seen.all)
    assert.equal(seen.again, seen.before, seen.all)
  })

const BUS = `
  echo 'systemd-resolve:x:990:990::/:/usr/sbin/nologin' >> /etc/passwd
  echo 'systemd-resolve:x:990:' >> /etc/group
  mkdir -p /run/dbus /run/systemd
  mount -t sysfs -o ro sysfs /sys
  mount -t proc proc /proc
  dbus-daemon --system --fork --nopidfile
  /lib/systemd/systemd-resolved > /run/resolved.log 2>&1 &
  for n in $(seq 50); do resolvectl status >/dev/null 2>&1 && break; sleep 0.1; done
  cat /run/resolved.log
`

test('UP-37, [host] dns: systemd-resolved itself: it asks ours for every name, and nothing is left after a daemon that was killed', async (t) => {
  if (lacking !== undefined) return t.skip(lacking)
  const show = `resolvectl dns ${DEVICE}; resolvectl domain ${DEVICE}; resolvectl default-route ${DEVICE}`
  const seen = await steps(
    'systemd-resolved',
    BUS,
    ['before', show],
    ['set', SET],
    ['during', show],
    ['back', GIVE_BACK],
    ['after', show],
    ['again', `${GIVE_BACK}; ${show}`],
    ['log', 'cat /run/resolved.log'],
  )
  assert.match(seen.set ?? '', /^keeper resolved/, seen.all)
  assert.match(seen.during!, new RegExp(`: ${OURS}\\n.*: ~\\.\\n.*: yes`), seen.all)
  assert.notEqual(seen.during, seen.before)
  assert.equal(seen.back, '', seen.all)
  assert.equal(seen.after, seen.before, seen.all)
  assert.equal(seen.again, seen.before, seen.all)
})
