/** A bare Debian in a folder, and commands in it: for tests of what a machine has to have. Needs root. */
import { cpSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { type Captured, capture } from '../../scripts/capture.ts'
import { usesPrograms } from '../../src/linux/packages.ts'

usesPrograms('debootstrap', 'unshare')

/** Mounts that end with the namespace, the root being a mount point itself, then the commands in the new root. */
const ENTER = `
set -e
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
  chroot . /bin/sh -c "$2"
`

/** Makes the system; returns why it could not be made. */
export async function makeDebian(suite: string, system: string): Promise<string | undefined> {
  const made = await capture('debootstrap', ['--variant=minbase', suite, system])
  if (made.status !== 0) return `debootstrap could not make ${suite}: ${made.text.trim().slice(-200)}`
  for (const name of ['/etc/resolv.conf', '/etc/hosts'])
    if (existsSync(name)) cpSync(name, join(system, name), { dereference: true })
  return undefined
}

/** Runs a command of the shell in the system. */
export function enterRoot(system: string, command: string): Promise<Captured> {
  return capture('unshare', ['-m', '--propagation', 'private', 'sh', '-c', ENTER, 'sh', system, command])
}
