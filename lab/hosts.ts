/** Programs on the lab's hosts: started inside a namespace, tracked, and ended with the lab. */
import type { ChildProcess, SpawnOptions } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { GodwitError, missingError } from '../src/core/errors.ts'
import { spawnIn } from '../src/linux/netns.ts'
import type { Ownership } from './ownership.ts'
import { namespaceOf } from './topology.ts'

/** How long a program may take to end when asked to. */
const GRACE_MS = 5000

export interface ProgramOptions {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  /** File that stderr is appended to; otherwise it is kept for error messages. */
  readonly log?: string
  /** What messages call it; default the command's base name. */
  readonly name?: string
  /** A pipe on stdin, for `tell`. Otherwise it reads nothing: servers take a pipe for inetd's. */
  readonly input?: boolean
  /** Of the lab's own programs: a command that starts it, e.g. `mptcpize run`. */
  readonly through?: readonly string[]
}

/** A program that runs, or has run, on a host. */
export class Program {
  readonly name: string
  readonly child: ChildProcess
  /** Exit status, or 128 + signal number. */
  readonly ended: Promise<number>
  readonly #lines: string[] = []
  readonly #errors: string[] = []
  #waiting: ((line: string | undefined) => void)[] = []
  #over = false

  readonly #log: string | undefined

  constructor(name: string, child: ChildProcess, log?: string) {
    this.name = name
    this.#log = log
    this.child = child
    child.stdin?.on('error', () => {})
    if (child.stdout) {
      const lines = createInterface({ input: child.stdout })
      lines.on('line', (line) => {
        const waiting = this.#waiting.shift()
        if (waiting === undefined) this.#lines.push(line)
        else waiting(line)
      })
      lines.on('close', () => {
        this.#over = true
        for (const waiting of this.#waiting.splice(0)) waiting(undefined)
      })
    }
    child.stderr?.on('data', (text: Buffer) => {
      this.#errors.push(text.toString())
      if (this.#errors.length > 200) this.#errors.shift()
    })
    this.ended = new Promise((resolve) => {
      child.once('error', () => resolve(127))
      child.once('close', (code, signal) => resolve(code ?? 128 + (signal === 'SIGKILL' ? 9 : 15)))
    })
  }

  get pid(): number {
    return this.child.pid ?? -1
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null && this.child.pid !== undefined
  }

  /** What it said on stderr, the end of it. */
  get errors(): string {
    const text = this.#log === undefined ? this.#errors.join('') : readFileSync(this.#log, 'utf8')
    return text.slice(-4000).trim()
  }

  /** The next line of stdout; undefined at its end. */
  line(): Promise<string | undefined> {
    const line = this.#lines.shift()
    if (line !== undefined || this.#over) return Promise.resolve(line)
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  /** Waits for a line of stdout that `wanted` accepts. PROGRAM_FAILED when the program ends or `withinMs` pass first. */
  async expect(wanted: (line: string) => boolean, withinMs: number): Promise<string> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), withinMs)
    })
    try {
      for (;;) {
        const line = await Promise.race([this.line(), late])
        if (line === 'late') throw this.failure(`said nothing expected within ${withinMs / 1000} s`)
        if (line === undefined) throw this.failure(`ended with status ${await this.ended}`)
        if (wanted(line)) return line
      }
    } finally {
      clearTimeout(timer)
    }
  }

  /** Writes a line to its stdin. */
  tell(line: string): void {
    this.child.stdin?.write(`${line}\n`)
  }

  failure(what: string): GodwitError {
    const said = this.errors
    return new GodwitError('PROGRAM_FAILED', `${this.name} ${what}${said === '' ? '' : `:\n${said}`}`)
  }

  /** Asks it and its children to end, then makes them. */
  async stop(): Promise<number> {
    const timer = setTimeout(() => this.signal('SIGKILL'), GRACE_MS)
    this.signal('SIGTERM')
    const status = await this.ended
    clearTimeout(timer)
    return status
  }

  /** To its whole process group. */
  signal(signal: NodeJS.Signals): void {
    if (!this.running) return
    try {
      process.kill(-this.pid, signal)
    } catch {
      // It ended meanwhile.
    }
  }
}

/** All programs of a lab. */
export class Programs {
  readonly #ownership: Ownership
  readonly #running = new Set<Program>()

  constructor(ownership: Ownership) {
    this.#ownership = ownership
  }

  /** Starts a command on a host. MISSING when it is not installed. */
  async start(
    role: string,
    command: string,
    args: readonly string[],
    options: ProgramOptions = {},
  ): Promise<Program> {
    const log = options.log === undefined ? undefined : openSync(options.log, 'a')
    const spawnOptions: SpawnOptions = {
      detached: true,
      stdio: [options.input === true ? 'pipe' : 'ignore', 'pipe', log ?? 'pipe'],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: { ...process.env, ...options.env } }),
    }
    const child = spawnIn(namespaceOf(role), command, args, spawnOptions)
    if (log !== undefined) closeSync(log)
    const program = new Program(
      `${options.name ?? command.replace(/.*\//, '')} on ${role}`,
      child,
      options.log,
    )
    if (child.pid === undefined) {
      await program.ended
      throw missingError(`${command} is not installed`, `apt-get install ${command}`)
    }
    this.#ownership.addProgram(child.pid)
    this.#running.add(program)
    program.ended.then(() => {
      this.#running.delete(program)
      this.#ownership.removeProgram(program.pid)
    })
    return program
  }

  /** Starts one of the lab's own programs and waits until it is ready. */
  async own(role: string, name: string, argument: object, options: ProgramOptions = {}): Promise<Program> {
    const path = fileURLToPath(new URL(`./programs/${name}.js`, import.meta.url))
    const line = [...(options.through ?? []), process.execPath, path, JSON.stringify(argument)]
    const [command, ...args] = line
    const program = await this.start(role, command!, args, {
      name,
      ...options,
      input: true,
    })
    await program.expect((line) => line.startsWith('{"ready":true'), 10_000)
    return program
  }

  /** Runs a command to its end. Returns stdout; PROGRAM_FAILED with its stderr when the status is not 0. */
  async run(
    role: string,
    command: string,
    args: readonly string[],
    options: ProgramOptions = {},
  ): Promise<string> {
    const program = await this.start(role, command, args, options)
    const out: string[] = []
    for (let line = await program.line(); line !== undefined; line = await program.line()) out.push(line)
    const status = await program.ended
    if (status !== 0) throw program.failure(`ended with status ${status}`)
    return out.join('\n')
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#running].map((program) => program.stop()))
  }
}
