// Requests of which only the latest matters, such as previews under a moving mouse.

const STALE_MS = 250; // a request that has run for longer is aborted by a newer one

/**
 * Sends at most one request at a time. A wish is the description of a request. While a request runs, the newest wish waits
 * and replaces an older waiting wish. The running request is aborted only if it is slow: if every request were aborted, a
 * mouse that keeps moving would never show a preview.
 */
export class Latest {
  #send;
  #done;
  #failed;
  #wish = null;
  #controller = null;
  #since = 0;

  /**
   * send(wish, signal) sends a request and returns a promise. done(wish, answer) is called with its result,
   * failed(error) with its error.
   */
  constructor(send, done, failed) {
    this.#send = send;
    this.#done = done;
    this.#failed = failed;
  }

  want(wish) {
    this.#wish = wish;
    if (!this.#controller) this.#run();
    else if (performance.now() - this.#since > STALE_MS) this.#controller.abort();
  }

  cancel() {
    this.#wish = null;
    this.#controller?.abort();
  }

  async #run() {
    while (this.#wish) {
      const wish = this.#wish;
      this.#wish = null;
      const controller = (this.#controller = new AbortController());
      this.#since = performance.now();
      try {
        const answer = await this.#send(wish, controller.signal);
        if (!controller.signal.aborted) this.#done(wish, answer);
      } catch (error) {
        if (error.retryAfter) {
          await new Promise((resolve) => setTimeout(resolve, error.retryAfter * 1000));
          this.#wish ??= controller.signal.aborted ? null : wish;
        } else if (error.name !== "AbortError") {
          this.#failed(error);
        }
      }
    }
    this.#controller = null;
  }
}
