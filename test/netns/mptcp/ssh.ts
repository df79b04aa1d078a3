/** A session of ssh from m to a server at c whose sockets are the kernel's MPTCP. */
import type { ChildProcess } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { missing } from '../tunnel/bed.ts'
import { type Bed, until } from './bed.ts'

usesPrograms('mptcpize', 'ssh', 'ssh-keygen', 'sshd')

/** Why sshd would let nobody in here. */
export function sshSkip(): string | false {
  const without = missing('sshd', 'ssh', 'ssh-keygen', 'mptcpize')
  if (without !== undefined) return without
  const users = Number(readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/)[2])
  if (users < 65_536) return 'in a user namespace sshd cannot become another user'
  const locked = /^root:!/m.test(readFileSync('/etc/shadow', 'utf8'))
  return locked ? "root's account is locked: sshd without PAM refuses it" : false
}

export interface Session {
  readonly ssh: ChildProcess
  /** A line for the shell. */
  say(line: string): void
  /** Waits until what the shell has said since the last call matches, and gives it. */
  hear(pattern: RegExp): Promise<string>
}

export async function login(bed: Bed): Promise<Session> {
  const file = (name: string): string => join(bed.folder, name)
  for (const key of ['host', 'user'])
    bed.run('c', 'ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', file(key))
  writeFileSync(
    file('sshd_config'),
    ['Port 22', `HostKey ${file('host')}`, `AuthorizedKeysFile ${file('user.pub')}`, 'PermitRootLogin yes']
      .concat('StrictModes no', 'UsePAM no', 'PidFile none', 'PrintMotd no', 'PrintLastLog no', '')
      .join('\n'),
  )
  chmodSync(bed.folder, 0o755)
  // It wants an empty /run/sshd, which only its package's service makes: it gets a /run of its own.
  const own =
    'mount -t tmpfs none /run && mkdir /run/sshd && exec mptcpize run "$(command -v sshd)" -D -e -f "$0"'
  const server = bed.spawn('c', 'unshare', '-m', 'sh', '-c', own, file('sshd_config'))
  let log = ''
  server.stderr!.on('data', (bytes) => {
    log += bytes
  })
  await until('sshd listens', () => log.includes('Server listening on 0.0.0.0'))
  const known = ['-o', 'StrictHostKeyChecking=no', '-o', `UserKnownHostsFile=${file('known')}`]
  const options = ['-F', 'none', '-i', file('user'), ...known, '-o', 'BatchMode=yes', '-T']
  const ssh = bed.spawn('m', 'ssh', ...options, 'root@10.3.0.2', 'sh')
  let heard = ''
  ssh.stdout!.on('data', (bytes) => {
    heard += bytes
  })
  return {
    ssh,
    say: (line) => ssh.stdin!.write(`${line}\n`),
    hear: async (pattern) => {
      await until(`the shell says ${pattern}`, () => pattern.test(heard))
      const text = heard
      heard = ''
      return text
    },
  }
}
