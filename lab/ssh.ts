/** The real sshd and ssh, with keys and a configuration of their own. */
import { execFileSync } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { findProgram, installHint, needProgram, usesPrograms } from '../src/linux/packages.ts'

const PROGRAMS = usesPrograms('ssh', 'sshd', 'ssh-keygen', 'unshare')

/** Why sshd would let nobody in here. */
export function sshSkip(): string | false {
  const missing = PROGRAMS.filter((name) => findProgram(name) === undefined)
  if (missing.length > 0) return `needs ${missing.join(', ')}: ${installHint(missing)}`
  const users = Number(readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/)[2])
  if (users < 65_536) return 'in a user namespace sshd cannot become another user'
  const locked = /^root:!/m.test(readFileSync('/etc/shadow', 'utf8'))
  return locked ? "root's account is locked: sshd without PAM refuses it" : false
}

export interface Ssh {
  /** Command and arguments of a server on port 22 that says `Server listening on 0.0.0.0` on stderr. */
  readonly server: readonly [string, ...string[]]
  /** Arguments of `ssh`, before the destination `root@…`. */
  readonly client: readonly string[]
}

/** Makes keys and a configuration in a folder. */
export function makeSsh(folder: string): Ssh {
  const file = (name: string) => join(folder, name)
  for (const key of ['host', 'user'])
    execFileSync(needProgram('ssh-keygen'), ['-q', '-t', 'ed25519', '-N', '', '-f', file(key)])
  writeFileSync(
    file('sshd_config'),
    ['Port 22', `HostKey ${file('host')}`, `AuthorizedKeysFile ${file('user.pub')}`, 'PermitRootLogin yes']
      .concat('StrictModes no', 'UsePAM no', 'PidFile none', 'PrintMotd no', 'PrintLastLog no', '')
      .join('\n'),
  )
  chmodSync(folder, 0o755)
  // It wants an empty /run/sshd, which only its package's service makes: it gets a /run of its own.
  const own = `mount -t tmpfs none /run && mkdir /run/sshd && exec "${needProgram('sshd')}" -D -e -f "$0"`
  const known = ['-o', 'StrictHostKeyChecking=no', '-o', `UserKnownHostsFile=${file('known')}`]
  return {
    server: [needProgram('unshare'), '-m', 'sh', '-c', own, file('sshd_config')],
    client: ['-F', 'none', '-i', file('user'), ...known, '-o', 'BatchMode=yes', '-T'],
  }
}
