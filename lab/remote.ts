/**
 * Changing the links of a lab that runs in another process: a Unix socket that takes a change in the command line's
 * words, one a connection, and answers `ok` or what is wrong with it.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { GodwitError, usageError } from '../src/core/errors.ts'
import type { Lab } from './build.ts'
import { INSIDE } from './enter.ts'
import { parseLink } from './links/conditions.ts'

/** Root's lab is found under /run; that of a user, which has a /run of its own, in the folder for temporary files. */
function socketPath(): string {
  const uid = process.env[INSIDE] ?? String(process.getuid?.())
  return uid === '0' ? '/run/godwit-lab/links.sock' : join(tmpdir(), `godwit-lab-${uid}.sock`)
}

/** Takes changes for this lab until the server is closed. Only its user can reach it. */
export async function serveLinks(lab: Lab): Promise<Server> {
  const path = socketPath()
  if (path.startsWith('/run/')) mkdirSync('/run/godwit-lab', { recursive: true })
  rmSync(path, { force: true })
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    let text = ''
    socket.setEncoding('utf8')
    socket.on('error', () => {})
    socket.on('data', (part: string) => {
      text += part
      if (text.length > 1000) socket.destroy()
    })
    socket.on('end', () => socket.end(apply(lab, text)))
  })
  const umask = process.umask(0o077)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
  } finally {
    process.umask(umask)
  }
  return server
}

function apply(lab: Lab, text: string): string {
  try {
    const { name, change } = parseLink(text)
    lab.setLink(name, change)
    return 'ok'
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/**
 * Changes a link of the lab that is up, `acc1:state=down` for example. Throws LAB_NONE when none is up, a usage error
 * for a change that means nothing.
 */
export async function changeLink(text: string): Promise<void> {
  parseLink(text)
  const answer = await new Promise<string>((resolve, reject) => {
    let said = ''
    const socket = connect(socketPath(), () => socket.end(text))
    socket.setEncoding('utf8')
    socket.on('data', (part: string) => {
      said += part
    })
    socket.on('end', () => resolve(said))
    socket.on('error', (cause) =>
      reject(new GodwitError('LAB_NONE', 'no lab is up', { hint: 'godwit lab up upmt', cause })),
    )
  })
  if (answer !== 'ok') throw usageError(answer)
}
