/** The arguments that are godwit's, not those of the program that `godwit run` starts. */
export function ownArguments(args: readonly string[]): readonly string[] {
  const end = args.indexOf('--')
  return end < 0 ? args : args.slice(0, end)
}
