/**
 * The last step of a build: what starts a process or a thread comes in few files (ADR 0462). Node.js spends about 0.6 ms on each
 * module that it finds, reads and links. Each entry (package-files.ts) is bundled into `dist/bundle`
 * with all that it imports but koffi; in the place of what tsc made of it comes a line that loads the bundle. The other files of
 * `dist` stay modules, for tests. Entries of threads that may start late are one file each, which is run from memory (ADR 0468).
 */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, type Plugin } from 'esbuild'
import { entriesOf, packageFiles } from './package-files.ts'

interface Manifest {
  readonly dependencies: Readonly<Record<string, string>>
  readonly peerDependencies: Readonly<Record<string, string>>
}

/** Also `dist.new`, while it is made. */
const dist = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const root = resolve(dist, '..')
const bundle = join(dist, 'bundle')

/** Sources name them in `new ThreadCode(new URL('…', import.meta.url))`. */
export function lateEntriesOf(entries: readonly string[], textOf: (entry: string) => string): string[] {
  const late = new Set<string>()
  for (const name of readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.ts')) continue
    for (const [, path] of textOf(join('src', name)).matchAll(LATE))
      late.add(join('src', dirname(name), path!))
  }
  return entries.filter((entry) => late.has(entry))
}

const LATE = /new ThreadCode\(\s*new URL\('(\.[^']*)\.js', import\.meta\.url\)/g

/**
 * `import.meta.url` stays that of the file that tsc makes, wherever the code gets: it leads to other entries, and to package.json.
 * `base`: the URL of the bundle.
 */
const places = (base: string): Plugin => ({
  name: 'places',
  setup({ onLoad }) {
    onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const place = relative(bundle, join(dist, relative(root, path))).replace(/ts$/, 'js')
      const url = `new URL('${place}', ${base}).href`
      return { loader: 'ts', contents: readFileSync(path, 'utf8').replaceAll('import.meta.url', url) }
    })
  },
})

async function bundleEntries({ dependencies, peerDependencies }: Manifest): Promise<void> {
  const all = entriesOf(packageFiles(root, dist))
  const late = lateEntriesOf(all, (name) => readFileSync(join(root, name), 'utf8'))
  const entries = all.filter((entry) => !late.includes(entry))
  const outOf = (entry: string) => entry.replaceAll('/', '-')
  // Names of chunks change with what is in them.
  rmSync(bundle, { recursive: true, force: true })
  const options = {
    absWorkingDir: root,
    outdir: bundle,
    bundle: true,
    platform: 'node',
    target: 'node20',
    external: Object.keys({ ...dependencies, ...peerDependencies }),
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
  } as const
  const points = (names: readonly string[]) =>
    names.map((entry) => ({ in: `${entry}.ts`, out: outOf(entry) }))
  const { metafile } = await build({
    ...options,
    entryPoints: points(entries),
    splitting: true,
    format: 'esm',
    // For packages that are CommonJS; their licenses are in one file.
    banner: {
      js: "import { createRequire as requireOf } from 'node:module'; const require = requireOf(import.meta.url)",
    },
    plugins: [places('import.meta.url')],
  })
  // Code that is run from memory has to be a script.
  const alone = await build({
    ...options,
    entryPoints: points(late),
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    banner: {
      js: "const placeOfThread = globalThis.godwitThread ?? require('node:url').pathToFileURL(__filename).href;",
    },
    plugins: [places('placeOfThread')],
  })
  const packages = new Set<string>()
  for (const input of [...Object.keys(metafile.inputs), ...Object.keys(alone.metafile.inputs)]) {
    const name = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1]
    if (name !== undefined) packages.add(name)
  }
  writeFileSync(join(bundle, 'LICENSES'), [...packages].sort().map(license).join('\n\n'))
  for (const entry of all) {
    const file = join(dist, `${entry}.js`)
    const bundled = relative(dirname(file), join(bundle, outOf(entry)))
    writeFileSync(
      file,
      late.includes(entry) ? `import '${bundled}.cjs'\n` : `export * from '${bundled}.js'\n`,
    )
  }
}

function license(name: string): string {
  const folder = join(root, 'node_modules', name)
  const file = ['LICENSE', 'LICENSE.md', 'LICENSE.txt'].map((each) => join(folder, each)).find(existsSync)
  if (file === undefined) throw new Error(`${name} has no license file`)
  return `${name}\n${'='.repeat(name.length)}\n\n${readFileSync(file, 'utf8').trim()}\n`
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await bundleEntries(JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest)
