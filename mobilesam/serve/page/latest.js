// Requests of which only the latest matters, such as previews under a moving mouse.

const STALE_MS = 250;

/**
 * One request is under way at most. A newer wish replaces the one that waits, and aborts the one under way where that
 * is slow; a quick one may still arrive, or a mouse that never rests would see nothing.
 */
export class Latest {
  #send;
  #done;
  #failed;
  #wish = null;
  #controller = null;
  #since = 0;

  /** send(wish, signal) makes the request; done(wish, answer) takes what it resolves to, failed(error) what it throws. */
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
