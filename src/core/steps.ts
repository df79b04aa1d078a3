/** Takes every step in order, also after one has failed; throws the first failure in the end. What is left is then as little as can be. */
export function takeEvery(...steps: readonly (() => void)[]): void {
  const failures: unknown[] = []
  for (const step of steps)
    try {
      step()
    } catch (error) {
      failures.push(error)
    }
  if (failures.length > 0) throw failures[0]
}
